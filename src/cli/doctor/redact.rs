//! Takes secrets out of text that is shown to others: values of the environment that are secret by their name, values
//! beside such names, users and passwords in URLs, and what has the form of an AWS key.

const HIDDEN: &str = "REDACTED";
/// A shorter value of the environment would take apart words that say nothing.
const SECRET_MIN: usize = 6;
/// Letters and digits of an AWS access key after its first four.
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

/// Whether what is called so is nobody else's business.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let within = ["secret", "password", "passphrase", "token", "signature", "credential", "authorization"];
    let ends = ["_key", "accesskey", "apikey", "key_id", "passwd"];
    within.iter().any(|word| name.contains(word)) || ends.iter().any(|end| name.ends_with(end))
}

/// `scheme://USER:PASSWORD@host` without the user.
fn users(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(['/', ' ', '"', '\'', '?', ')']).unwrap_or(after.len());
        let (host, more) = after.split_at(end);
        match host.rsplit_once('@') {
            Some((_, host)) => out.push_str(&format!("{HIDDEN}@{host}")),
            None => out.push_str(host),
        }
        rest = more;
    }
    out + rest
}

/// `NAME=VALUE`, `NAME = "VALUE"` and `"NAME": "VALUE"` without the value, where the name says that it is secret.
fn named(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let word = before[..at].trim_end_matches([' ', '"', '\'']);
        let name =
            word.rsplit(|c: char| !c.is_alphanumeric() && c != '_' && c != '-').next().unwrap_or_default();
        if !is_secret(name) {
            continue;
        }
        let value = rest.trim_start_matches([' ', '"', '\'', '=']);
        out.push_str(&rest[..rest.len() - value.len()]);
        // A header's value has spaces.
        let whole = name.to_ascii_lowercase().contains("authorization");
        let ends: &[char] = if whole { &['"'] } else { &['"', '\'', ' ', '&', ',', ';', ')', '}'] };
        let end = value.find(ends).unwrap_or(value.len());
        if end > 0 {
            out.push_str(HIDDEN);
        }
        rest = &value[end..];
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
            ("secret_key = \"s p\" # mine", "secret_key = \"REDACTED p\" # mine"),
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
