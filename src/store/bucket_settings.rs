//! What a bucket's owner has set for all of it, as far as the server tells: some of it would take objects away.

/// What was asked for, or one word why it can't be told: `denied`, `unsupported`, `silent`.
pub type Asked<T> = std::result::Result<T, &'static str>;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketRules {
    /// How far the server's clock is ahead of this host's, in milliseconds. It tells whole seconds.
    pub ahead_ms: Asked<i64>,
    /// `Enabled` or `Suspended`; `None`: it never kept versions.
    pub versioning: Asked<Option<String>>,
    /// Those that are in force for objects below the store's prefix.
    pub lifecycle: Asked<Vec<LifecycleRule>>,
    /// Whether its policy lets anybody in.
    pub public: Asked<bool>,
    /// How long each new object is kept from being deleted; `None`: it isn't.
    pub retention: Asked<Option<String>>,
}

/// A rule by which the server deletes objects, or moves them to another class.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LifecycleRule {
    /// What its owner calls it; may be empty.
    pub id: String,
    /// Of the keys that it is for, in the bucket.
    pub prefix: String,
    /// When it deletes an object: `after 7 days`.
    pub deletes: Option<String>,
    /// Class, and when an object goes there.
    pub moves: Vec<(String, String)>,
}

impl LifecycleRule {
    /// Whether objects with keys below `base` (empty: the whole bucket) are among those that it is for.
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
