//! Who runs the program of an image: names and numbers by the image's own files.
//!
//! Looked up by the child in the root that it has entered, so that no link leads out. The files
//! are the image's and may hold anything.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use super::child::{Attempt, Failure};
use super::plan::ImageUser;
use crate::state::record::CONFIG_ERROR;

/// `/etc/passwd` and `/etc/group`, each: more is no file of users.
const FILE_LEN_MAX: u64 = 4 << 20;
/// `NGROUPS_MAX` (getgroups(2)).
const GROUPS_MAX: usize = 65_536;

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Besides `gid`.
    pub(super) groups: Vec<u32>,
    /// Its directory, where that was looked up.
    pub(super) home: Option<String>,
}

impl User {
    pub(super) fn by_number(uid: u32, gid: u32) -> Self {
        Self { uid, gid, groups: Vec::new(), home: None }
    }
}

/// Looks the user up in the files below `/`.
pub(super) fn look_up(wanted: &ImageUser) -> Result<User, Failure> {
    let [passwd, group] = ["/etc/passwd", "/etc/group"]
        .map(|path| read(path).to(|| format!("look users up in the image's {path}")));
    let mut user = find(wanted, &passwd?, &group?).map_err(Failure::new)?;
    if !wanted.own_groups {
        user.groups.clear();
    }
    if wanted.non_root && user.uid == 0 {
        return Err(Failure::new(format!(
            "{CONFIG_ERROR}: `runAsNonRoot` is set, but the image's user is root; set `runAsUser` to \
             a number above 0"
        )));
    }
    Ok(user)
}

/// A file that is not there has nobody in it.
fn read(path: &str) -> io::Result<Vec<u8>> {
    // A FIFO of the image must not keep us waiting.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file"));
    }
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_LEN_MAX {
        let why = format!("it has more than {FILE_LEN_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(text)
}

/// A line of passwd(5).
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// By the texts of the two files. PURE.
fn find(wanted: &ImageUser, passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let (passwd, group) = (String::from_utf8_lossy(passwd), String::from_utf8_lossy(group));
    let (user_text, group_text) = match wanted.text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted.text.as_str(), None),
    };
    let by_uid = |uid: u32| accounts(&passwd).find(|account| account.uid == uid);
    let (uid, account) = match wanted.uid {
        Some(uid) => (uid, by_uid(uid)),
        None if user_text.is_empty() => (0, by_uid(0)),
        None => match accounts(&passwd).find(|account| account.name == user_text) {
            Some(account) => (account.uid, Some(account)),
            None => match user_text.parse() {
                Ok(uid) => (uid, by_uid(uid)),
                Err(_) => {
                    return Err(format!(
                        "the image's user `{user_text}` is not in its /etc/passwd; set \
                         `securityContext.runAsUser`"
                    ));
                }
            },
        },
    };
    // The image's group belongs to the image's user.
    let group_text = group_text.filter(|_| wanted.uid.is_none());
    let gid = match (wanted.gid, group_text) {
        (Some(gid), _) => gid,
        (None, Some(text)) => match group_lines(&group).find(|(name, ..)| *name == text) {
            Some((_, gid, _)) => gid,
            None => text.parse().map_err(|_| {
                format!(
                    "the image's group `{text}` is not in its /etc/group; set \
                     `securityContext.runAsGroup`"
                )
            })?,
        },
        (None, None) => account.as_ref().map_or(0, |account| account.gid),
    };
    let name = account.as_ref().map(|account| account.name);
    let is_member = |members: &str| name.is_some_and(|name| members.split(',').any(|m| m == name));
    let groups = group_lines(&group).filter(|(_, _, members)| is_member(members));
    let groups = groups.map(|(_, gid, _)| gid).take(GROUPS_MAX).collect();
    let home = account.map(|account| account.home).filter(|home| home.starts_with('/'));
    Ok(User { uid, gid, groups, home: Some(home.unwrap_or("/").to_owned()) })
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Account { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    })
}

/// Name, number and members of each group (group(5)).
fn group_lines(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\nnobody line\n:x:3:3::/:\n\
        app:x:1000:1001::/srv/app:/bin/sh\nodd:x:7:7:::\n\xff\xfe:x:8:8::/x:\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:app,root\nwheel:x:10:rootless\nvideo:x:44:app\n";

    fn by(text: &str, uid: Option<u32>, gid: Option<u32>) -> Result<User, String> {
        let text = text.to_owned();
        let wanted = ImageUser { text, uid, gid, own_groups: true, non_root: false };
        find(&wanted, PASSWD, GROUP)
    }

    fn ids(found: &User) -> (u32, u32, &[u32], &str) {
        (found.uid, found.gid, &found.groups, found.home.as_deref().unwrap())
    }

    #[test]
    fn a_user_of_the_image_is_found_by_name_and_by_number_with_its_groups() {
        for text in ["app", "1000"] {
            assert_eq!(
                ids(&by(text, None, None).unwrap()),
                (1000, 1001, &[50, 44][..], "/srv/app")
            );
        }
        assert_eq!(ids(&by("", None, None).unwrap()), (0, 0, &[50][..], "/root"));
        assert_eq!(ids(&by("4711", None, None).unwrap()), (4711, 0, &[][..], "/"));
        assert_eq!(ids(&by("odd", None, None).unwrap()), (7, 7, &[][..], "/"));
    }

    #[test]
    fn a_group_may_be_named_and_the_manifest_is_stronger() {
        assert_eq!(ids(&by("app:staff", None, None).unwrap()).1, 50);
        assert_eq!(ids(&by("app:77", None, None).unwrap()).1, 77);
        assert_eq!(ids(&by("app:", None, None).unwrap()).1, 1001);
        assert_eq!(ids(&by("app:staff", Some(0), None).unwrap()), (0, 0, &[50][..], "/root"));
        assert_eq!(ids(&by("app:staff", None, Some(9)).unwrap()).1, 9);
        assert_eq!(ids(&by("nobody-knows", Some(5), None).unwrap()).0, 5);
    }

    #[test]
    fn who_is_not_in_the_files_is_named() {
        assert!(by("ghost", None, None).unwrap_err().contains("`ghost` is not in its /etc/passwd"));
        assert!(by("app:ghost", None, None).unwrap_err().contains("group `ghost`"));
        // One more than the largest number.
        by("4294967296", None, None).unwrap_err();
    }
}
