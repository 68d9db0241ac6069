//! Debian's archive through apt, with a configuration of our own: nothing of the machine's
//! packages, lists or caches is touched, and no host is named here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::command::{output, run};

/// Debian's keys, as its package `debian-archive-keyring` installs them. The machine's other
/// trusted keys must not sign a kernel.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suites from whose mirror the others can be had too.
const DEBIAN_SUITES: &[&str] = &[
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "oldstable",
    "stable",
    "testing",
    "unstable",
];

/// One suite's package lists.
#[derive(Debug)]
pub struct Suite {
    configuration: PathBuf,
}

/// What the signed package lists say of a package.
#[derive(Debug)]
pub struct Package {
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Bytes of the file.
    pub size_bytes: u64,
}

impl Suite {
    /// Fetches the lists of `suite` (of its `components`, as `main contrib`) into `folder` and
    /// checks their signature.
    ///
    /// # Errors
    /// When the archive does not have the suite any more, or cannot be reached.
    pub fn update(folder: &Path, suite: &str, components: &str, mirror: &str) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "{KEYRING} is missing\n  remedy: install the package debian-archive-keyring"
        );
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let source =
            format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} {components}\n");
        fs::write(folder.join("sources.list"), source)?;
        fs::write(folder.join("status"), "")?;
        let suite = Self {
            configuration: folder.join("apt.conf"),
        };
        fs::write(&suite.configuration, configuration(folder))?;
        run(suite.apt("apt-get").args(["--quiet=2", "update"]))?;
        Ok(suite)
    }

    /// Names of all packages that start with `prefix`.
    ///
    /// # Errors
    /// When apt-cache fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = output(self.apt("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// What the lists say of a package.
    ///
    /// # Errors
    /// When the suite does not have it.
    pub fn show(&self, package: &str) -> Result<Package> {
        let text = output(
            self.apt("apt-cache")
                .args(["--no-all-versions", "show", package]),
        )?;
        let fields: BTreeMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        let field = |name: &str| {
            let value = fields.get(name).copied();
            value.with_context(|| format!("the lists give no {name} of {package}"))
        };
        Ok(Package {
            sha256: field("SHA256")?.to_owned(),
            size_bytes: field("Size")?.parse()?,
        })
    }

    /// Downloads a package into `folder`; apt checks it against the signed lists.
    ///
    /// # Errors
    /// When apt-get fails.
    pub fn download(&self, package: &str, folder: &Path) -> Result<()> {
        run(self
            .apt("apt-get")
            .args(["--quiet=2", "download", package])
            .current_dir(folder))
    }

    /// Downloads packages and all that they depend on, as for an empty machine.
    ///
    /// # Errors
    /// When apt-get fails.
    pub fn download_with_dependencies(&self, packages: &[&str], folder: &Path) -> Result<()> {
        fs::create_dir_all(folder.join("partial"))?;
        let mut archives = std::ffi::OsString::from("Dir::Cache::archives=");
        archives.push(folder);
        run(self
            .apt("apt-get")
            .args(["--quiet=2", "--yes", "--download-only"])
            .args(["--no-install-recommends", "--option"])
            .arg(archives)
            .arg("install")
            .args(packages))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--config-file").arg(&self.configuration);
        command
    }
}

/// The machine's own settings (a proxy, say) hold where these do not replace them.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
APT::Architecture "amd64";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "4";
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
"#
    )
}

/// The mirror that this machine itself takes Debian's main archive from.
///
/// # Errors
/// When the machine has none.
pub fn mirror() -> Result<String> {
    let targets = output(Command::new("apt-get").args([
        "indextargets",
        "--no-release-info",
        "--format",
        "$(RELEASE) $(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    pick_mirror(&targets)
        .map(str::to_owned)
        .context("apt's configuration names no Debian mirror\n  remedy: give one with --mirror URI")
}

fn pick_mirror(targets: &str) -> Option<&str> {
    targets.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (suite, component, uri) = (words.next()?, words.next()?, words.next()?);
        (DEBIAN_SUITES.contains(&suite) && component == "main").then_some(uri)
    })
}

#[cfg(test)]
mod tests {
    use super::pick_mirror;

    #[test]
    fn the_mirror_is_that_of_the_main_archive() {
        let targets = "nodistro main https://third.example/\n\
                       bookworm-security main http://mirror.example/security/\n\
                       bookworm contrib http://other.example/debian/\n\
                       bookworm main http://mirror.example/debian/\n";
        assert_eq!(pick_mirror(targets), Some("http://mirror.example/debian/"));
        assert_eq!(pick_mirror("noble main http://ubuntu.example/"), None);
    }
}
