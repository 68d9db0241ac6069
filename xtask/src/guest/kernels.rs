//! Debian's kernels: which, where they come from, and the cache of what was downloaded.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use super::apt::{self, Suite};
use super::command::run;

/// A kernel to test on.
#[derive(Debug)]
pub struct Kernel {
    /// Its version, as typed: `6.12`.
    pub version: &'static str,
    /// Debian's suite that has it.
    suite: &'static str,
}

/// The kernels, oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        version: "5.10",
        suite: "bullseye",
    },
    Kernel {
        version: "6.1",
        suite: "bookworm",
    },
    Kernel {
        version: "6.12",
        suite: "trixie",
    },
    Kernel {
        version: "7.2",
        suite: "sid",
    },
];

/// A kernel on this machine's disk.
#[derive(Debug)]
pub struct Unpacked {
    /// What `uname -r` will say.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// The folder with its modules.
    pub modules: PathBuf,
}

/// The checksums of a kernel's packages, in the format of sha256sum.
const SUMS: &str = "SHA256SUMS";

impl Kernel {
    /// The kernel's files: from the cache in `guest`, when it is whole, else from the archive.
    ///
    /// # Errors
    /// When the archive cannot be reached or has another version by now.
    pub fn obtain(&self, guest: &Path, mirror: Option<&str>) -> Result<Unpacked> {
        let folder = guest.join("kernels").join(self.version);
        if !is_whole(&folder) {
            self.download(guest, &folder, mirror)?;
        }
        unpack(&folder)?;
        find(&folder.join("tree"))
    }

    fn download(&self, guest: &Path, folder: &Path, mirror: Option<&str>) -> Result<()> {
        let mirror = mirror.map_or_else(apt::mirror, |given| Ok(given.to_owned()))?;
        let suite = Suite::update(
            &guest.join("apt").join(self.suite),
            self.suite,
            "main",
            &mirror,
        )
        .with_context(|| format!("the suite {} cannot be had from {mirror}", self.suite))?;
        let packages = self.packages(&suite)?;
        eprintln!("{}: downloading {}", self.version, packages.join(", "));
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let mut sums = String::new();
        for package in &packages {
            let expected = suite.show(package)?;
            suite.download(package, folder)?;
            let file = downloaded(folder, package)?;
            let size_bytes = fs::metadata(&file)?.len();
            ensure!(
                size_bytes == expected.size_bytes,
                "{package} has {size_bytes} bytes, not {}",
                expected.size_bytes
            );
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            writeln!(sums, "{}  {name}", expected.sha256)?;
        }
        fs::write(folder.join(SUMS), sums)?;
        ensure!(
            is_whole(folder),
            "what was downloaded does not have the checksums of the signed lists"
        );
        Ok(())
    }

    /// The packages of the newest cloud kernel of this version: since 7.x the image and the
    /// modules are apart.
    fn packages(&self, suite: &Suite) -> Result<Vec<String>> {
        let prefix = format!("linux-image-{}", self.version);
        let names = suite.names(&prefix)?;
        let release = newest_release(&names, self.version).ok_or_else(|| {
            anyhow!(
                "the suite {} has no cloud kernel {} any more, but: {}",
                self.suite,
                self.version,
                suite.names("linux-image-").map_or_else(
                    |error| error.to_string(),
                    |names| names
                        .into_iter()
                        .filter(|name| name.ends_with("-cloud-amd64"))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            )
        })?;
        let binary = format!("linux-binary-{release}");
        if suite.names(&binary)?.contains(&binary) {
            return Ok(vec![binary, format!("linux-modules-{release}")]);
        }
        Ok(vec![format!("linux-image-{release}")])
    }
}

/// `6.12.107+deb13-cloud-amd64`, the newest of its kind among package names.
fn newest_release<'a>(names: &'a [String], version: &str) -> Option<&'a str> {
    let numbers = |release: &str| -> Vec<u64> {
        release
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| {
            // `6.1-cloud-amd64` is a name for the newest; `6.12…` is another version than 6.1.
            release.ends_with("-cloud-amd64")
                && release
                    .strip_prefix(version)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
        .max_by_key(|release| numbers(release))
}

fn is_whole(folder: &Path) -> bool {
    folder.join(SUMS).exists()
        && run(Command::new("sha256sum")
            .args(["--check", "--strict", "--status", SUMS])
            .current_dir(folder))
        .is_ok()
}

fn downloaded(folder: &Path, package: &str) -> Result<PathBuf> {
    debs(folder)?
        .into_iter()
        .find(|deb| {
            let name = deb.file_name().unwrap_or_default().to_string_lossy();
            name.split_once('_')
                .is_some_and(|(name, _)| name == package)
        })
        .ok_or_else(|| anyhow!("apt-get left no file for {package}"))
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut debs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            debs.push(path);
        }
    }
    Ok(debs)
}

/// Unpacks the packages into `tree`, which appears only when it is complete.
fn unpack(folder: &Path) -> Result<()> {
    let (tree, partial) = (folder.join("tree"), folder.join("tree.partial"));
    if tree.exists() {
        return Ok(());
    }
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    for deb in debs(folder)? {
        run(Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&deb)
            .arg(&partial))?;
    }
    fs::rename(&partial, &tree)?;
    Ok(())
}

/// Where a package puts image and modules changed between the releases of Debian.
fn find(tree: &Path) -> Result<Unpacked> {
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .filter_map(|folder| fs::read_dir(tree.join(folder)).ok())
        .flatten()
        .find_map(|entry| Some(entry.ok()?.path()))
        .ok_or_else(|| anyhow!("no modules in {}", tree.display()))?;
    let release = modules
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let images = [
        tree.join("boot").join(format!("vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ];
    let image = images
        .into_iter()
        .find(|image| image.exists())
        .ok_or_else(|| anyhow!("no kernel image in {}", tree.display()))?;
    Ok(Unpacked {
        release,
        image,
        modules,
    })
}

#[cfg(test)]
mod tests {
    use super::newest_release;

    #[test]
    fn the_newest_release_goes_by_numbers() {
        let names = [
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-51-amd64",
            "linux-image-6.1.0-52-cloud-amd64-unsigned",
            "linux-image-6.12.107+deb13-cloud-amd64",
        ]
        .map(str::to_owned);
        let newest = |version| newest_release(&names, version);
        assert_eq!(newest("6.1"), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(newest("6.12"), Some("6.12.107+deb13-cloud-amd64"));
        assert_eq!(newest("7.2"), None);
    }
}
