//! The files of the resolvers.

use std::{collections::BTreeMap, fs, io, path::Path};

use jiff::Timestamp;

use crate::Lease;

/// End of the name of the file in which a resolver keeps its leases.
const LEASES: &str = ".leases";

/// Every file by name. None if there is no such directory; what is being written is left out.
pub(super) fn read(directory: &Path) -> io::Result<BTreeMap<String, String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries?,
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !entry.file_type()?.is_file() {
            continue;
        }
        match fs::read(entry.path()) {
            Ok(bytes) => {
                files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Writes a file so that nobody ever sees half of it.
pub(super) fn write(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let new = directory.join(format!(".{name}"));
    fs::write(&new, content)?;
    fs::rename(&new, directory.join(name))
}

/// Removes a file; fine if there is none.
pub(super) fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The leases in all resolvers' files.
pub(super) fn leases(files: &BTreeMap<String, String>) -> Vec<Lease> {
    let mut leases = Vec::new();
    for (name, text) in files {
        if let Some(bridge) = name.strip_suffix(LEASES) {
            leases.extend(leases_in(bridge, text));
        }
    }
    leases
}

/// The leases in the file of a bridge's resolver. Lines that are none are left out: they are other
/// things that it remembers, or not yet complete.
pub fn leases_in<'a>(bridge: &'a str, text: &'a str) -> impl Iterator<Item = Lease> + 'a {
    text.lines().filter_map(move |line| lease(bridge, line))
}

/// Takes from a resolver's file the leases of those that it no longer knows: it would keep their
/// addresses from everybody else.
pub(super) fn prune_leases(directory: &Path, bridge: &str) -> io::Result<()> {
    let name = format!("{bridge}{LEASES}");
    let files = read(directory)?;
    let Some(old) = files.get(&name) else {
        return Ok(());
    };
    let known = files
        .get(&format!("{bridge}.dhcp"))
        .map_or("", String::as_str);
    let macs: Vec<&str> = known
        .lines()
        .filter_map(|line| line.split(',').next())
        .collect();
    let is_known = |line: &&str| {
        line.split(' ')
            .nth(1)
            .is_some_and(|mac| macs.contains(&mac))
    };
    let new: String = old.split_inclusive('\n').filter(is_known).collect();
    if new == *old {
        return Ok(());
    }
    // In place: it belongs to the resolver, whoever we are.
    fs::write(directory.join(name), new)
}

/// `<expiry in seconds> <hardware address> <address> <name> <client id>`; expiry 0 is never.
fn lease(bridge: &str, line: &str) -> Option<Lease> {
    let mut words = line.split(' ');
    let expiry: i64 = words.next()?.parse().ok()?;
    let mac = words.next()?.parse().ok()?;
    let expires = if expiry == 0 {
        Timestamp::MAX
    } else {
        Timestamp::from_second(expiry).ok()?
    };
    Some(Lease {
        bridge: bridge.to_owned(),
        mac,
        expires,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn leases_are_read_and_anything_else_is_not() {
        let text = "1700003600 02:16:3e:01:02:03 10.1.0.2 web ff:01\n\
                    0 02:16:3e:01:02:04 10.1.0.3 * *\n\
                    duid 00:01\nnonsense\n\n";
        let files = [
            ("bn1.leases".to_owned(), text.to_owned()),
            ("bn1.conf".to_owned(), text.to_owned()),
        ];
        let leases = leases(&files.into());
        assert_eq!(leases.len(), 2);
        assert_eq!(leases[0].bridge, "bn1");
        assert_eq!(leases[0].mac, "02:16:3e:01:02:03".parse().unwrap());
        assert_eq!(
            leases[0].expires,
            Timestamp::from_second(1_700_003_600).unwrap()
        );
        assert_eq!(leases[1].expires, Timestamp::MAX);
    }

    #[test]
    fn files_appear_whole_and_go() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.conf", "one").unwrap();
        let (kept, gone) = (
            "9 02:00:00:00:00:01 10.1.0.2 * *\n",
            "9 02:00:00:00:00:02 x * *\n",
        );
        write(dir.path(), "bn1.leases", &format!("{gone}{kept}")).unwrap();
        write(dir.path(), "bn1.dhcp", "02:00:00:00:00:01,id:*,10.1.0.2\n").unwrap();
        prune_leases(dir.path(), "bn1").unwrap();
        prune_leases(dir.path(), "bn2").unwrap();
        assert_eq!(read(dir.path()).unwrap()["bn1.leases"], kept);
        remove(dir.path(), "bn1.leases").unwrap();
        remove(dir.path(), "bn1.dhcp").unwrap();
        fs::write(dir.path().join(".b.conf"), "half").unwrap();
        assert_eq!(read(dir.path()).unwrap().len(), 1);
        remove(dir.path(), "a.conf").unwrap();
        remove(dir.path(), "a.conf").unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        assert!(read(&dir.path().join("none")).unwrap().is_empty());
    }
}
