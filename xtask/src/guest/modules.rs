//! Kernel modules that the checks need, in an order in which they load.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection};

/// What the guests load, with what it depends on. One that the kernel has built in, or that its
/// version does not know, is no file in the package and is passed over.
const WANTED: &[&str] = &[
    // Disks of the virtual machine.
    "virtio_pci",
    "virtio_blk",
    // A file system and a block device on a file.
    "crc32c_generic",
    "ext4",
    "loop",
    // Two network namespaces that talk to each other.
    "veth",
];

/// Puts the wanted modules into `to`, numbered in their order; and those of the folder `added`,
/// which are not the kernel package's.
///
/// # Errors
/// When a module cannot be read or unpacked.
pub fn stage(modules: &Path, added: Option<&Path>, to: &Path) -> Result<()> {
    let mut available = BTreeMap::new();
    collect(&modules.join("kernel"), &mut available)?;
    let mut additions = BTreeMap::new();
    if let Some(folder) = added {
        collect(folder, &mut additions)?;
    }
    available.extend(additions.clone());
    let mut order = Order {
        available,
        seen: HashSet::new(),
        images: Vec::new(),
    };
    let added = additions.keys().map(String::as_str);
    for name in WANTED.iter().copied().chain(added) {
        order.add(name)?;
    }
    fs::create_dir_all(to)?;
    for (number, (name, image)) in order.images.iter().enumerate() {
        fs::write(to.join(format!("{number:02}-{name}.ko")), image)?;
    }
    Ok(())
}

struct Order {
    available: BTreeMap<String, PathBuf>,
    seen: HashSet<String>,
    /// Names and unpacked files, dependencies first.
    images: Vec<(String, Vec<u8>)>,
}

impl Order {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        let Some(path) = self.available.get(&name).cloned() else {
            return Ok(());
        };
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let image = read(&path)?;
        for dependency in depends(&image).with_context(|| path.display().to_string())? {
            self.add(&dependency)?;
        }
        self.images.push((name, image));
        Ok(())
    }
}

/// All modules by name; the kernel takes `-` and `_` for the same.
fn collect(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), found)?;
            continue;
        }
        let file = entry.file_name().to_string_lossy().into_owned();
        if let Some((name, _)) = file.split_once(".ko") {
            found.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(fs::read(path)?);
    }
    let output = Command::new("xz").arg("-dc").arg(path).output()?;
    ensure!(
        output.status.success(),
        "xz cannot unpack {}",
        path.display()
    );
    Ok(output.stdout)
}

/// The `depends=a,b` of a module's `.modinfo`.
fn depends(image: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(image)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    Ok(section
        .data()?
        .split(|byte| *byte == 0)
        .filter_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}
