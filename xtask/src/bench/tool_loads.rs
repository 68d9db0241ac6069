//! Loads for the comparison of tools: one kind of event each, as many as this machine makes.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};

/// What a load does, again and again.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Reads of 4 KiB past the page cache of a loop device.
    BlockReads,
    /// A byte to and fro between two threads, through pipes.
    Switches,
    /// getppid(2).
    SystemCalls,
    /// Connections over loopback, a byte each way.
    Connections,
}

/// What one thread does until it is told to stop.
type Work = Box<dyn FnOnce(&AtomicBool) -> Result<()> + Send>;

/// A load at work; it ends when dropped.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
    _disk: Option<LoopDevice>,
}

impl Running {
    /// Starts it.
    pub fn start(load: Load) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut disk = None;
        let mut spawn = |work: Work| {
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || work(&stop)));
        };
        match load {
            Load::BlockReads => {
                let device = disk.insert(LoopDevice::new()?);
                let path = device.path.clone();
                spawn(Box::new(move |stop| read_disk(&path, stop)));
            }
            Load::Switches => {
                let (there_out, there_in) = std::io::pipe()?;
                let (back_out, back_in) = std::io::pipe()?;
                spawn(Box::new(|stop| pass_on(back_out, there_in, true, stop)));
                spawn(Box::new(|stop| pass_on(there_out, back_in, false, stop)));
            }
            Load::SystemCalls => spawn(Box::new(|stop| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::black_box(std::os::unix::process::parent_id());
                }
                Ok(())
            })),
            Load::Connections => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let server = listener.local_addr()?;
                spawn(Box::new(move |stop| serve(&listener, stop)));
                spawn(Box::new(move |stop| connect_again_and_again(server, stop)));
            }
        }
        Ok(Self {
            stop,
            threads,
            _disk: disk,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(Ok(())) => {}
                // Of two threads, the one that stops first leaves the other a closed end.
                Ok(Err(error)) => eprintln!("the load ended: {error:#}"),
                Err(_) => eprintln!("the load panicked"),
            }
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let (mut stream, _) = listener.accept()?;
        // A client that ends sends nothing.
        if stream.read(&mut [0])? == 1 {
            stream.write_all(&[1])?;
        }
    }
    Ok(())
}

fn connect_again_and_again(server: SocketAddr, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(server)?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
    }
    // The server may wait for one more, or be gone.
    TcpStream::connect(server).ok();
    Ok(())
}

fn read_disk(path: &str, stop: &AtomicBool) -> Result<()> {
    const BYTES: usize = 4096;
    // Direct I/O wants whole, aligned blocks.
    let mut space = vec![0; 2 * BYTES];
    let aligned = space.as_ptr().align_offset(BYTES);
    let buffer = space
        .get_mut(aligned..aligned + BYTES)
        .context("no aligned block")?;
    let mut options = OpenOptions::new();
    let disk = options.read(true).custom_flags(libc::O_DIRECT).open(path)?;
    let mut block = 0;
    while !stop.load(Ordering::Relaxed) {
        disk.read_exact_at(buffer, block % DISK_BLOCKS * BYTES as u64)?;
        block += 1;
    }
    Ok(())
}

/// Hands every byte on. One of the two begins; it ends both by closing its end.
fn pass_on(
    mut from: std::io::PipeReader,
    mut to: std::io::PipeWriter,
    begins: bool,
    stop: &AtomicBool,
) -> Result<()> {
    let mut byte = [0];
    if begins {
        to.write_all(&byte)?;
    }
    while from.read(&mut byte)? == 1 && !(begins && stop.load(Ordering::Relaxed)) {
        to.write_all(&byte)?;
    }
    Ok(())
}

const DISK_BLOCKS: u64 = 4096;

/// Over a file of its own; detached when dropped.
#[derive(Debug)]
struct LoopDevice {
    path: String,
    file: PathBuf,
}

impl LoopDevice {
    fn new() -> Result<Self> {
        let (handle, file) = tempfile::NamedTempFile::new()?.keep()?;
        handle.set_len(DISK_BLOCKS * 4096)?;
        let mut command = Command::new("losetup");
        let output = command.args(["-f", "--show"]).arg(&file).output()?;
        ensure!(
            output.status.success(),
            "losetup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let path = String::from_utf8(output.stdout)?.trim().to_owned();
        Ok(Self { path, file })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        Command::new("losetup")
            .args(["-d", &self.path])
            .status()
            .ok();
        std::fs::remove_file(&self.file).ok();
    }
}
