//! Signature version 4 of a request that has a header with bytes that are no text: the SDK's signer has headers as text.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use aws_sdk_s3::config::Credentials;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use sha2::{Digest as _, Sha256};

use super::header_text;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// The parts of a request that are signed. `headers`: as text (see `header_text`), names in lowercase.
pub(super) struct Signable<'a> {
    pub method: &'a str,
    pub uri: &'a str,
    pub headers: Vec<(&'a str, &'a str)>,
    /// The body. None: it is not part of the signature.
    pub body: Option<&'a [u8]>,
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Returns the value as it goes out, without what the standard says to leave out of a signature.
fn value(text: &str) -> Vec<u8> {
    let bytes = header_text::value(text).unwrap_or_else(|| text.as_bytes().to_vec());
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    for byte in bytes.trim_ascii() {
        if *byte != b' ' || out.last() != Some(&b' ') {
            out.push(*byte);
        }
    }
    out
}

fn query(uri: &http::Uri) -> String {
    let all = uri.query().unwrap_or_default().split('&').filter(|one| !one.is_empty());
    let mut all: Vec<String> =
        all.map(|one| if one.contains('=') { one.to_owned() } else { format!("{one}=") }).collect();
    all.sort();
    all.join("&")
}

/// Returns the headers that sign the request. None: its address is none.
pub(super) fn signature(
    what: &Signable<'_>,
    keys: &Credentials,
    region: &str,
    at: SystemTime,
) -> Option<Vec<(&'static str, String)>> {
    let uri: http::Uri = what.uri.parse().ok()?;
    let time = DateTime::from(at).fmt(Format::DateTime).ok()?;
    let time: String =
        time.split('.').next()?.chars().filter(|c| !matches!(c, '-' | ':' | 'Z')).collect::<String>() + "Z";
    let day = time.get(..8)?.to_owned();
    let payload = what.body.map_or_else(|| UNSIGNED.to_owned(), |body| hex(Sha256::digest(body)));
    let mut added = vec![("x-amz-date", time.clone()), ("x-amz-content-sha256", payload.clone())];
    added.extend(keys.session_token().map(|token| ("x-amz-security-token", token.to_owned())));
    let mut headers: BTreeMap<&str, Vec<u8>> = what
        .headers
        .iter()
        .filter(|(name, _)| *name != "user-agent")
        .map(|(name, text)| (*name, value(text)))
        .collect();
    headers.insert("host", uri.authority()?.as_str().as_bytes().to_vec());
    headers.extend(added.iter().map(|(name, text)| (*name, text.clone().into_bytes())));
    let names = headers.keys().copied().collect::<Vec<_>>().join(";");
    let mut request = format!("{}\n{}\n{}\n", what.method, uri.path(), query(&uri)).into_bytes();
    for (name, value) in &headers {
        request.extend([name.as_bytes(), b":", value, b"\n"].concat());
    }
    request.extend(format!("\n{names}\n{payload}").into_bytes());
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex(Sha256::digest(&request)));
    let secret = format!("AWS4{}", keys.secret_access_key());
    let key =
        [&day, region, "s3", "aws4_request"].iter().fold(secret.into_bytes(), |key, part| mac(&key, part));
    let proof = hex(mac(&key, &text));
    let id = keys.access_key_id();
    added.push((
        "authorization",
        format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={proof}"),
    ));
    Some(added)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use aws_sigv4::http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    };
    use aws_sigv4::sign::v4;

    use super::*;

    /// The SDK's signer gives the same signature for what both can sign.
    #[test]
    fn it_is_the_sdks_signature() {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_166_100);
        let keys = Credentials::new("ID", "secret", Some("token".into()), None, "test");
        for (uri, body) in [
            ("http://127.0.0.1:9000/b/k%20x?x-id=PutObject", Some(&b"body"[..])),
            ("http://b.s3.example/k?uploads", None),
            ("http://b.s3.example/k?partNumber=2&uploadId=a%2Fb", Some(&b""[..])),
        ] {
            let headers = vec![("content-type", "text/x"), ("x-amz-meta-a", " a  b é ")];
            let mut settings = SigningSettings::default();
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            let identity = keys.clone().into();
            let how = v4::SigningParams::builder()
                .identity(&identity)
                .region("eu-west-1")
                .name("s3")
                .time(at)
                .settings(settings)
                .build()
                .unwrap();
            let signable = body.map_or(SignableBody::UnsignedPayload, SignableBody::Bytes);
            let what = SignableRequest::new("PUT", uri, headers.iter().copied(), signable).unwrap();
            let (theirs, _) = sign(what, &how.into()).unwrap().into_parts().0.into_parts();
            let mut theirs: Vec<_> =
                theirs.into_iter().map(|h| (h.name().to_owned(), h.value().to_owned())).collect();
            let what = Signable { method: "PUT", uri, headers, body };
            let ours = signature(&what, &keys, "eu-west-1", at).unwrap();
            let mut ours: Vec<_> = ours.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "{uri}");
        }
    }
}
