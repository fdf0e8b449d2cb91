//! Users and groups of this host, as passwd(5) and group(5) have them.

use std::collections::BTreeSet;

/// Users and groups of this host, see the module. A file that can't be read counts as empty.
#[derive(Debug, Default)]
pub struct Accounts {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    /// Names of users who are in the group beside their own one.
    members: Vec<String>,
}

impl Accounts {
    /// Reads the users and groups of this host from /etc/passwd and /etc/group.
    pub fn load() -> Accounts {
        let text = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        Accounts::parse(&text("/etc/passwd"), &text("/etc/group"))
    }

    /// Parses the texts of passwd(5) and group(5). Lines that are no entry are skipped.
    pub fn parse(passwd: &str, group: &str) -> Accounts {
        let user = |line: &str| {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?);
            let gid = fields.next().and_then(|gid| gid.parse().ok()).unwrap_or(uid);
            Some(User { name, uid, gid })
        };
        let group_of = |line: &str| {
            let mut fields = line.split(':');
            let (name, gid) = (fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?);
            let members = fields.next().unwrap_or_default().split(',').filter(|name| !name.is_empty());
            Some(Group { name, gid, members: members.map(str::to_owned).collect() })
        };
        Accounts {
            users: passwd.lines().filter_map(user).collect(),
            groups: group.lines().filter_map(group_of).collect(),
        }
    }

    pub fn user_named(&self, name: &str) -> Option<u32> {
        self.users.iter().find(|user| user.name == name).map(|user| user.uid)
    }

    pub fn group_named(&self, name: &str) -> Option<u32> {
        self.groups.iter().find(|group| group.name == name).map(|group| group.gid)
    }

    /// Returns the name by which people call a user, or the number in digits where the user has no name here.
    pub fn name_of(&self, uid: u32) -> String {
        let user = self.users.iter().find(|user| user.uid == uid);
        user.map_or_else(|| uid.to_string(), |user| user.name.clone())
    }

    /// Returns the users who are in the group beside their own one.
    pub fn members(&self, gid: u32) -> BTreeSet<u32> {
        let of_it = self.groups.iter().filter(|group| group.gid == gid);
        of_it.flat_map(|group| &group.members).filter_map(|name| self.user_named(name)).collect()
    }

    /// Returns all groups of a user.
    pub fn groups_of(&self, uid: u32) -> BTreeSet<u32> {
        let own = self.users.iter().filter(|user| user.uid == uid).map(|user| user.gid);
        let others = self
            .groups
            .iter()
            .filter(|group| group.members.iter().any(|name| self.user_named(name) == Some(uid)));
        own.chain(others.map(|group| group.gid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let accounts = Accounts::parse(
            "root:x:0:0::/root:/bin/sh\nkvm:x:7:8::/:\nbroken\nweb:x:9:10::/:\n",
            "kvm:x:8:web,gone\nempty:x:11:\n\n",
        );
        assert_eq!((accounts.user_named("kvm"), accounts.user_named("broken")), (Some(7), None));
        assert_eq!((accounts.group_named("kvm"), accounts.group_named("none")), (Some(8), None));
        assert_eq!((accounts.name_of(9), accounts.name_of(77)), ("web".to_owned(), "77".to_owned()));
        assert_eq!(accounts.members(8), BTreeSet::from([9]));
        assert_eq!(accounts.groups_of(9), BTreeSet::from([8, 10]));
        assert_eq!(accounts.groups_of(77), BTreeSet::new());
    }
}
