//! Takes secrets out of text that is shown to others: values of the environment that are secret by their name, values
//! beside such names, users and passwords in URLs, and what has the form of an AWS key.

const HIDDEN: &str = "REDACTED";
/// Shortest value of the environment that is hidden. A shorter one would take apart words that say nothing.
const SECRET_MIN: usize = 6;
/// Number of letters and digits of an AWS access key after its first four.
const ACCESS_KEY: usize = 16;
const ACCESS_KEY_KINDS: &[&str] = &["AKIA", "ASIA", "AROA"];

/// The values that must not be seen.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    pub fn among(variables: impl Iterator<Item = (String, String)>) -> Secrets {
        let mut all: Vec<String> = variables
            .filter(|(name, value)| is_secret(name) && value.len() >= SECRET_MIN)
            .map(|(_, value)| value)
            .collect();
        // One may begin with another.
        all.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Secrets(all)
    }

    pub fn hide(&self, text: &str) -> String {
        let known = self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN));
        let lines = known.split('\n').map(|line| access_keys(&named(&users(line))));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Tells whether a thing of this name must not be shown to others.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let within = ["secret", "password", "passphrase", "token", "signature", "credential", "authorization"];
    let ends = ["_key", "accesskey", "apikey", "key_id", "passwd"];
    within.iter().any(|word| name.contains(word)) || ends.iter().any(|end| name.ends_with(end))
}

/// Returns the line with `scheme://USER:PASSWORD@host` without the user. A password may have any characters:
/// where the text could be one as well as an address with a port and a path, it is one.
fn users(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find([' ', '"', '\'', ')']).unwrap_or(after.len());
        let end = after.find("://").unwrap_or(end).min(end);
        let (url, more) = after.split_at(end);
        let is_user = |user: &str| user.split('/').next().is_some_and(|first| first.contains([':', '@']));
        match url.rsplit_once('@') {
            Some((user, host)) if is_user(user) || !user.contains('/') => {
                out.push_str(&format!("{HIDDEN}@{host}"));
            }
            _ => out.push_str(url),
        }
        rest = more;
    }
    out + rest
}

/// Tells whether a variable of this name may hold a user and a password, without a scheme before them.
fn is_proxy(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with("proxy")
}

/// Returns the end of a value that has this quote before it, or none.
fn end_of(value: &str, quote: &str, ends: &[char]) -> usize {
    let mut escaped = false;
    let is_end = |c: char| {
        let is_escaped = escaped;
        escaped = c == '\\' && !is_escaped;
        !is_escaped && quote.starts_with(c)
    };
    let end = match quote {
        "" => value.find(ends),
        "\\\"" => value.find(quote),
        _ => value.find(is_end),
    };
    end.unwrap_or(value.len())
}

/// Returns the line with `NAME=VALUE`, `NAME = "VALUE"` and `"NAME": "VALUE"` without the value, where the
/// name says that it is secret.
fn named(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let word = before[..at].trim_end_matches([' ', '"', '\'', '\\']);
        let name =
            word.rsplit(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next().unwrap_or_default();
        if !is_secret(name) && !is_proxy(name) {
            continue;
        }
        let value = rest.trim_start_matches([' ', '=']);
        let quote =
            ["\\\"", "\"", "'"].into_iter().find(|quote| value.starts_with(quote)).unwrap_or_default();
        let value = &value[quote.len()..];
        out.push_str(&rest[..rest.len() - value.len()]);
        // A header's value has spaces.
        let whole = name.to_ascii_lowercase().contains("authorization");
        let ends: &[char] = if whole { &['"'] } else { &['"', '\'', ' ', '&', ')', '}'] };
        let (value, more) = value.split_at(end_of(value, quote, ends));
        match value.rsplit_once('@') {
            _ if value.is_empty() => {}
            _ if is_secret(name) => out.push_str(HIDDEN),
            Some((_, host)) if !value.contains("://") => out.push_str(&format!("{HIDDEN}@{host}")),
            _ => out.push_str(value),
        }
        rest = more;
    }
    out + rest
}

fn access_keys(line: &str) -> String {
    let mut out = line.to_owned();
    for kind in ACCESS_KEY_KINDS {
        let mut from = 0;
        while let Some(at) = out[from..].find(kind).map(|at| at + from) {
            let fine = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit();
            let long = out[at + 4..].chars().take_while(|c| fine(*c)).count();
            if long >= ACCESS_KEY {
                out.replace_range(at..at + 4 + long, HIDDEN);
            }
            from = at + 4;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(text: &str) -> String {
        let variables =
            [("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"), ("HOME", "/home/somebody"), ("X_TOKEN", "ab")];
        Secrets::among(variables.map(|(n, v)| (n.into(), v.into())).into_iter()).hide(text)
    }

    #[test]
    fn secrets_are_hidden_and_the_rest_is_kept() {
        for (text, seen) in [
            ("it said wJalrXUtnFEMI at /home/somebody, ab", "it said REDACTED at /home/somebody, ab"),
            ("proxy http://u:p@w@host:1/x", "proxy http://REDACTED@host:1/x"),
            ("secret_key = \"s p\" # mine", "secret_key = \"REDACTED\" # mine"),
            ("password = \"a,b;c d\\\"e'f\", x = 1", "password = \"REDACTED\", x = 1"),
            ("password='a\"b c', x=1", "password='REDACTED', x=1"),
            ("db_password=a,b;c x=1", "db_password=REDACTED x=1"),
            ("password = \"\", x = 1", "password = \"\", x = 1"),
            (r#"{\"token\":\"t0, 1\",\"key\":1}"#, r#"{\"token\":\"REDACTED\",\"key\":1}"#),
            ("http_proxy=user:p,w@host:3128", "http_proxy=REDACTED@host:3128"),
            ("\"HTTPS_PROXY\": \"user:p w@host\",", "\"HTTPS_PROXY\": \"REDACTED@host\","),
            ("NO_PROXY=localhost,10.0.0.1 x", "NO_PROXY=localhost,10.0.0.1 x"),
            ("http_proxy=http://u:p/w?x@host:1", "http_proxy=http://REDACTED@host:1"),
            ("at https://user:pa/ss@host/x, then", "at https://REDACTED@host/x, then"),
            ("s3://b/dir/v@s?endpoint=http://h:1", "s3://b/dir/v@s?endpoint=http://h:1"),
            ("file:///pool/v@s", "file:///pool/v@s"),
            ("{\"token\":\"t0\",\"key\":\"label\"}", "{\"token\":\"REDACTED\",\"key\":\"label\"}"),
            ("/o?X-Amz-Signature=ff00&X-Amz-Date=1", "/o?X-Amz-Signature=REDACTED&X-Amz-Date=1"),
            ("Authorization: AWS4 Credential=A/b, Signature=c", "Authorization: REDACTED"),
            ("id AKIAIOSFODNN7EXAMPLE here, AKIAS not", "id REDACTED here, AKIAS not"),
            ("passwd_file = \"/etc/keys\"", "passwd_file = \"/etc/keys\""),
            ("s3://b/p?endpoint=http://h:1&region=r", "s3://b/p?endpoint=http://h:1&region=r"),
            ("password:\n=", "password:\n="),
        ] {
            assert_eq!(hidden(text), seen);
        }
    }
}
