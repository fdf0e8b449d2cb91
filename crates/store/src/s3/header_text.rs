//! Values of headers that are no UTF-8, as text that is: each byte that can't be read becomes one character, and one
//! that stands for such a byte becomes the bytes it is made of. So every value has one text, and every text its value.
//!
//! The SDK has headers as text, and takes one that isn't for no answer at all: an object whose metadata somebody wrote in
//! Latin-1 could be neither read nor removed.

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use http::HeaderValue;

/// The first of 256 characters of private use; those of bytes below 128 stand for nothing.
const FIRST: u32 = 0xef00;

fn stands_for(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(FIRST)?).ok().filter(|byte| *byte >= 0x80)
}

fn shown(bytes: &[u8], out: &mut String) {
    let one = |byte: &u8| char::from_u32(FIRST + u32::from(*byte)).expect("it is of private use");
    out.extend(bytes.iter().map(one));
}

/// Returns a text that stands for a header's value. None: the value is text already.
fn text(value: &[u8]) -> Option<String> {
    if std::str::from_utf8(value).is_ok_and(|text| !text.chars().any(|c| stands_for(c).is_some())) {
        return None;
    }
    let mut out = String::new();
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match stands_for(c) {
                Some(_) => shown(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut out),
                None => out.push(c),
            }
        }
        shown(chunk.invalid(), &mut out);
    }
    Some(out)
}

/// Returns the value that a text stands for; none where it is the text itself.
pub(super) fn value(text: &str) -> Option<Vec<u8>> {
    if text.is_ascii() || !text.chars().any(|c| stands_for(c).is_some()) {
        return None;
    }
    let mut out = Vec::new();
    for c in text.chars() {
        match stands_for(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Some(out)
}

/// Makes the values of an answer's headers text.
pub(super) fn read(mut answer: HttpResponse) -> HttpResponse {
    let odd = |(name, value): (&str, &[u8])| Some((name.to_owned(), text(value)?));
    let odd: Vec<(String, String)> = answer.headers().iter_bytes().filter_map(odd).collect();
    for (name, text) in odd {
        // Such a text is a header's value.
        let _ = answer.headers_mut().try_insert(name, text);
    }
    answer
}

/// Makes texts of a request the values that they stand for.
pub(super) fn written(request: HttpRequest) -> HttpRequest {
    if !request.headers().iter().any(|(_, text)| value(text).is_some()) {
        return request;
    }
    // What the SDK has written is a request.
    let mut parts = request.try_into_http1x().expect("a request");
    for its in parts.headers_mut().values_mut() {
        let found = std::str::from_utf8(its.as_bytes()).ok().and_then(value);
        if let Some(found) = found.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()) {
            *its = found;
        }
    }
    HttpRequest::try_from(parts).expect("a request")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_that_are_no_text_become_one() {
        assert_eq!(text(b"plain"), None);
        assert_eq!(text("é".as_bytes()), None);
        let latin = text(b"caf\xe9").unwrap();
        assert_eq!(latin, "caf\u{efe9}");
        assert_eq!(value(&latin).unwrap(), b"caf\xe9");
        assert_eq!(value("é"), None);
    }

    proptest! {
        #[test]
        fn every_value_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let is_text = text(&bytes).is_none();
            let shown = text(&bytes).unwrap_or_else(|| String::from_utf8(bytes.clone()).unwrap());
            let back = value(&shown).unwrap_or_else(|| shown.clone().into_bytes());
            prop_assert_eq!(&back, &bytes);
            prop_assert!(!is_text || value(&shown).is_none());
        }

        #[test]
        fn every_private_character_comes_back(text in "[\u{ef00}-\u{efff}a]{0,12}") {
            let shown = super::text(text.as_bytes()).unwrap_or_else(|| text.clone());
            let back = value(&shown).unwrap_or_else(|| shown.clone().into_bytes());
            prop_assert_eq!(back, text.into_bytes());
        }
    }
}
