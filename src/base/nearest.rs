//! Words that people misspell.

/// The end of a message on an unknown word: the known one that is nearest, or all of them.
pub fn nearest(word: &str, known: &[&str]) -> String {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let far = |other: &str| strsim::damerau_levenshtein(&plain(word), &plain(other));
    let near = known.iter().min_by_key(|other| far(other));
    let near = near.filter(|other| far(other) <= 1.max(word.chars().count().max(other.len()) / 3));
    match (near, known) {
        (Some(near), _) => format!("; did you mean `{near}`?"),
        (None, []) => String::new(),
        (None, known) => format!(": use one of {}", known.join(", ")),
    }
}
