//! Words that people misspell.

/// Returns the known word that is so near that it was probably meant.
pub fn nearest_word<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let far = |other: &str| strsim::damerau_levenshtein(&plain(word), &plain(other));
    let near = known.iter().min_by_key(|other| far(other))?;
    (far(near) <= 1.max(word.chars().count().max(near.len()) / 3)).then_some(near)
}

/// Returns the end of a message on an unknown word: the known one that is nearest, or all of them.
pub fn nearest(word: &str, known: &[&str]) -> String {
    match (nearest_word(word, known), known) {
        (Some(near), _) => format!("; did you mean `{near}`?"),
        (None, []) => String::new(),
        (None, known) => format!(": use one of {}", known.join(", ")),
    }
}
