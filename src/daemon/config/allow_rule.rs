//! Rules of `allow`, as they are written: who may open which exports.

use toml::de::DeValue;

use super::listen_address::Account;
use super::value_types::{Element, Fault, List, Raw, Setting, quoted};
use windlass_base::nearest;

/// A rule of `allow`: lets whoever it is for open some exports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allow {
    /// A name in the client's certificate.
    pub cn: Option<String>,
    pub user: Option<Account>,
    pub group: Option<Account>,
    pub exports: Vec<String>,
    pub write: bool,
}

const KEYS: [&str; 5] = ["cn", "user", "group", "exports", "write"];

impl Setting for Allow {
    const KIND: &'static str = "a rule";
    const SAMPLE: &'static str = "{ cn = \"web-*\", exports = [\"tank/web-*\"], write = true }";

    fn read(raw: &Raw<'_>) -> Result<Allow, Vec<Fault>> {
        let fault = |at, what: String| vec![Fault { at, what }];
        let DeValue::Table(table) = raw.get_ref() else {
            return Err(fault(raw.span(), format!("a rule is written as {}", Allow::SAMPLE)));
        };
        let (mut rule, mut has_exports) = (Allow::default(), false);
        for (key, value) in table.iter() {
            match key.get_ref().as_ref() {
                "cn" => rule.cn = Some(String::read(value)?),
                "user" => rule.user = Some(Account::read(value)?),
                "group" => rule.group = Some(Account::read(value)?),
                "exports" => {
                    rule.exports = List::<String>::read(value)?.values().cloned().collect();
                    has_exports = true;
                }
                "write" => rule.write = bool::read(value)?,
                other => {
                    let what = format!("a rule has no {other:?}{}", nearest(other, &KEYS));
                    return Err(fault(key.span(), what));
                }
            }
        }
        if !has_exports || rule.exports.is_empty() {
            let what = "a rule names exports: write exports = [\"tank/web-*\"], or [\"*\"] for all";
            return Err(fault(raw.span(), what.to_owned()));
        }
        if rule.cn.is_some() && (rule.user.is_some() || rule.group.is_some()) {
            let what = "no client has both a certificate and a user: write a rule for each";
            return Err(fault(raw.span(), what.to_owned()));
        }
        Ok(rule)
    }

    fn show(&self) -> String {
        let exports = self.exports.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ");
        let mut keys = Vec::new();
        keys.extend(self.cn.iter().map(|cn| format!("cn = {}", quoted(cn))));
        keys.extend(self.user.iter().map(|user| format!("user = {}", user.show())));
        keys.extend(self.group.iter().map(|group| format!("group = {}", group.show())));
        keys.push(format!("exports = [{exports}]"));
        keys.extend(self.write.then(|| "write = true".to_owned()));
        format!("{{ {} }}", keys.join(", "))
    }
}

impl Element for Allow {
    const LIST: &'static str = "a list of rules";
    const LIST_SAMPLE: &'static str = "[{ cn = \"web-*\", exports = [\"tank/web-*\"], write = true }]";
}
