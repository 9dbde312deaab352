//! Programs of this machine, with what they need to run, as a layer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::requirement::find;

/// A tar with these programs in `/bin`, the libraries that they are linked with, and the folders that a container
/// needs.
pub fn programs(names: &[&str]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, format!("{folder}/"), std::io::empty()).unwrap();
    }
    let mut libraries = BTreeSet::new();
    for name in names {
        let program = find(name).unwrap_or_else(|| panic!("{name} is not on this machine"));
        append(&mut tar, &program, &Path::new("bin").join(name));
        libraries.extend(linked(&program));
    }
    for library in &libraries {
        append(&mut tar, library, library.strip_prefix("/").unwrap());
    }
    tar.into_inner().unwrap()
}

fn append(tar: &mut tar::Builder<Vec<u8>>, file: &Path, name: &Path) {
    let content = std::fs::read(file).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, &*content).unwrap();
}

fn linked(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let paths = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}
