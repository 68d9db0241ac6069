//! A `PostgreSQL` cluster of our own, under load: what the tests and the benchmark profile.
//!
//! Stands alone (standard library, `anyhow`, `tempfile`): the benchmark in `xtask` compiles this
//! file too.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// How long the server may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server with a `pgbench` database. Dropping it ends the server and removes its files.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    programs: PathBuf,
    port: u16,
    // Last: removed after the server's end.
    folder: TempDir,
}

impl Postgres {
    /// The folder of the newest installed server's programs.
    pub fn programs() -> Option<PathBuf> {
        let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
        let with_major = versions.filter_map(|entry| {
            let path = entry.ok()?.path();
            let major: u32 = path.file_name()?.to_str()?.parse().ok()?;
            path.join("bin/initdb")
                .is_file()
                .then(|| (major, path.join("bin")))
        });
        with_major.max().map(|(_, programs)| programs)
    }

    /// Creates a cluster in a temporary folder, starts it on a free loopback port and a socket in
    /// that folder, and fills `pgbench`'s tables at this scale (15 MB each).
    pub fn start(scale: u32) -> Result<Self> {
        let programs = Self::programs().context(
            "PostgreSQL's server is not installed\n  remedy: apt-get install postgresql",
        )?;
        let folder = tempfile::Builder::new()
            .prefix("flame-postgres-")
            .tempdir()?;
        // The server's user must reach its folder, and nobody else the socket in it.
        if is_root() {
            succeed(Command::new("chown").arg(SERVER_USER).arg(folder.path()))?;
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
        succeed(
            as_server_user(&programs.join("initdb"), folder.path())
                .args([
                    "--no-sync",
                    "--auth=trust",
                    "--username=postgres",
                    "--encoding=UTF8",
                ])
                .arg("--locale=C")
                .arg(folder.path().join("data")),
        )?;
        let port = free_port()?;
        let server = start_server(&programs, folder.path(), port)?;
        let postgres = Self {
            server,
            programs,
            port,
            folder,
        };
        postgres.wait_until_ready()?;
        succeed(postgres.client("createdb").arg("bench"))?;
        let scale = scale.to_string();
        succeed(
            postgres
                .client("pgbench")
                .args(["-i", "-q", "-s", &scale, "bench"]),
        )?;
        Ok(postgres)
    }

    /// The process id of the server's first process, the parent of all others.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }

    /// A client program, told where the server is.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("PGHOST", self.folder.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    /// Starts `pgbench -S` with this many clients and returns when all of them are connected.
    pub fn load(&self, clients: u32, duration: Duration) -> Result<Load> {
        let (clients, seconds) = (clients.to_string(), duration.as_secs().to_string());
        let mut pgbench = self.client("pgbench");
        pgbench.args([
            "-n", "-S", "-M", "simple", "-c", &clients, "-j", "2", "-T", &seconds,
        ]);
        let child = pgbench
            .arg("bench")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let load = Load { pgbench: child };
        let deadline = Instant::now() + PATIENCE;
        while self.connections()? != clients {
            ensure!(
                Instant::now() < deadline,
                "pgbench did not connect in {PATIENCE:?}"
            );
            sleep(Duration::from_millis(20));
        }
        Ok(load)
    }

    /// How many clients are in the load's database, as text.
    fn connections(&self) -> Result<String> {
        let query = "select count(*) from pg_stat_activity where datname = 'bench'";
        let output = self
            .client("psql")
            .args(["-XAtc", query, "postgres"])
            .output()?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.client("pg_isready").arg("-q").status()?.success() {
            if Instant::now() > deadline {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("the server is not ready after {PATIENCE:?}:\n{log}");
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT is the server's fast shutdown: it ends its children and removes shared memory.
        signal(&self.server, "INT");
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.server.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        signal(&self.server, "QUIT");
        self.server.wait().ok();
    }
}

/// A running `pgbench`, ended when dropped.
#[derive(Debug)]
pub struct Load {
    pgbench: Child,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.pgbench.kill().ok();
        self.pgbench.wait().ok();
    }
}

/// The server refuses to run as root; Debian's package creates this user for it.
const SERVER_USER: &str = "postgres";

fn is_root() -> bool {
    // The owner of a process's folder in /proc is its effective user.
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A program that runs as an unprivileged user and gets SIGINT should we die before it.
fn as_server_user(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command
            .arg(format!("--reuid={SERVER_USER}"))
            .arg(format!("--regid={SERVER_USER}"));
        command.arg("--clear-groups");
    }
    command.args(["--pdeathsig", "INT", "--"]).arg(program);
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn start_server(programs: &Path, folder: &Path, port: u16) -> Result<Child> {
    let log = fs::File::create(folder.join("log"))?;
    as_server_user(&programs.join("postgres"), folder)
        .arg("-D")
        .arg(folder.join("data"))
        .args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"])
        .arg("-c")
        .arg(format!("unix_socket_directories={}", folder.display()))
        // Nothing here outlives the run; and no process may come or go while we list them.
        .args([
            "-c",
            "fsync=off",
            "-c",
            "autovacuum=off",
            "-c",
            "max_parallel_workers=0",
        ])
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting PostgreSQL")
}

/// A loopback port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn signal(child: &Child, name: &str) {
    Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .ok();
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{stderr}",
        output.status
    );
    Ok(())
}
