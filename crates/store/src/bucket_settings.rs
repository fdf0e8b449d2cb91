//! What a bucket's owner has set for all of it, as far as the server tells: some of it would take objects away.

/// An answer, or one word that says why there is none: `denied`, `unsupported`, `silent`.
pub type Asked<T> = std::result::Result<T, &'static str>;

/// The rules that a bucket's owner has set for all of it, as far as the server tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketRules {
    /// Milliseconds by which the server's clock is ahead of this host's. The server tells whole seconds.
    pub ahead_ms: Asked<i64>,
    /// The bucket's versioning: `Enabled` or `Suspended`; `None`: it never kept versions.
    pub versioning: Asked<Option<String>>,
    /// The rules that are in force for objects below the store's prefix.
    pub lifecycle: Asked<Vec<LifecycleRule>>,
    /// True if the bucket's policy lets anybody in.
    pub public: Asked<bool>,
    /// Time for which each new object is kept from being deleted; `None`: it isn't.
    pub retention: Asked<Option<String>>,
}

/// A rule by which the server deletes objects, or moves them to another class.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LifecycleRule {
    /// The owner's name for the rule; may be empty.
    pub id: String,
    /// Prefix, in the bucket, of the keys that the rule is for.
    pub prefix: String,
    /// Text that says when the rule deletes an object: `after 7 days`.
    pub deletes: Option<String>,
    /// Each class to which the rule moves objects, and when.
    pub moves: Vec<(String, String)>,
}

impl LifecycleRule {
    /// Tells whether objects with keys below `base` (empty: the whole bucket) are among those that the rule is for.
    pub fn touches(&self, base: &str) -> bool {
        base.starts_with(&self.prefix) || self.prefix.starts_with(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_touches_a_store_when_one_prefix_holds_the_other() {
        let touches = |prefix: &str, base: &str| {
            LifecycleRule { prefix: prefix.into(), ..LifecycleRule::default() }.touches(base)
        };
        assert!(touches("", "pool/a/") && touches("pool/", "pool/a/") && touches("pool/a/logs", "pool/a/"));
        assert!(touches("logs/", ""), "a store that is the whole bucket");
        assert!(!touches("logs/", "pool/a/") && !touches("pool/ab", "pool/a/"));
    }
}
