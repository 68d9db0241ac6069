//! `cachestat`, `kmalloc` and `pagealloc` against loads of known size.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;

use serde_json::Value;

use support::tool::{Running, alone_and_privileged, list, own_pid, sum_of};

const PAGE: usize = 4096;
const FILE_PAGES: u64 = 1024;

/// What this process has mapped is in memory and stays there: no first use of a page of the test
/// program comes between.
fn lock_memory() {
    // SAFETY: changes no memory's contents.
    assert_eq!(unsafe { libc::mlockall(libc::MCL_CURRENT) }, 0);
}

fn advise(file: &File, advice: libc::c_int) {
    file.sync_all().unwrap();
    // SAFETY: advice on a descriptor of our own.
    let result = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
    assert_eq!(result, 0);
}

/// Hits, misses and dirtied pages of this process while `load` runs.
fn cachestat(load: impl FnOnce()) -> (u64, u64, u64) {
    let tool = Running::start(&["cachestat", "60", "-p", &own_pid()]);
    load();
    let report = tool.report();
    println!("{report}");
    let number = |name: &str| support::tool::number(&report, name);
    (number("hits"), number("misses"), number("dirties"))
}

fn read_whole(file: &File, buffer: &mut [u8]) {
    let mut offset = 0;
    while offset < FILE_PAGES * PAGE as u64 {
        file.read_exact_at(buffer, offset).unwrap();
        offset += buffer.len() as u64;
    }
}

#[test]
fn cachestat_tells_cold_from_warm_to_the_page() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    // Not in a tmpfs: its pages are the file.
    let mut file = tempfile::tempfile_in(support::tool::disk_folder()).unwrap();
    let content = vec![7; FILE_PAGES as usize * PAGE];
    lock_memory();
    let written = cachestat(|| file.write_all(&content).unwrap());
    // A write's new pages are no misses.
    assert_eq!(written, (0, 0, FILE_PAGES));
    for bytes in [PAGE, 16 * PAGE, 256 * PAGE] {
        let mut buffer = vec![1; bytes];
        advise(&file, libc::POSIX_FADV_DONTNEED);
        let cold = cachestat(|| read_whole(&file, &mut buffer));
        assert_eq!(cold, (0, FILE_PAGES, 0), "cold, {bytes} at a time");
        let warm = cachestat(|| read_whole(&file, &mut buffer));
        assert_eq!(warm, (FILE_PAGES, 0, 0), "warm, {bytes} at a time");
    }
    advise(&file, libc::POSIX_FADV_DONTNEED);
    advise(&file, libc::POSIX_FADV_RANDOM);
    let random = cachestat(|| {
        let mut page = [0; PAGE];
        for index in 0..100 {
            // 389 has no factor in common with the number of pages.
            file.read_exact_at(&mut page, index * 389 % FILE_PAGES * PAGE as u64)
                .unwrap();
        }
    });
    assert_eq!(random, (0, 100, 0), "random reads");
}

/// Runs `load` in a thread of its own name after `prepare`, with the tool attached between; the
/// rows of that name. So what the test does beside its load is not counted.
fn tallied<T: Send + 'static>(
    tool: &str,
    prepare: impl FnOnce() -> T + Send + 'static,
    load: impl FnOnce(T) + Send + 'static,
) -> Vec<Value> {
    const NAME: &str = "known-load";
    let (ready, is_ready) = mpsc::channel();
    let (go, may_go) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let thread = std::thread::Builder::new().name(NAME.into());
    let thread = thread.spawn(move || {
        let prepared = prepare();
        ready.send(()).unwrap();
        may_go.recv().unwrap();
        load(prepared);
        done.send(()).unwrap();
        // It must not end, and free its stack, while the tool still counts.
        may_go.recv().ok();
    });
    is_ready.recv().unwrap();
    let tool = Running::start(&[tool, "60", "-p", &own_pid()]);
    go.send(()).unwrap();
    is_done.recv().unwrap();
    let report = tool.report();
    drop(go);
    thread.unwrap().join().unwrap();
    println!("{report}");
    let rows = list(&report, "rows").iter();
    rows.filter(|row| row["comm"] == NAME).cloned().collect()
}

#[test]
fn kmalloc_counts_messages_and_their_bytes() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    // msgsnd(2) takes one kmalloc of a header and the text; two sizes take the header out.
    let requested = [104, 904].map(|size| {
        // The slab allocator takes memory for itself now and then, in whose name it happens to be;
        // that is counted, too, and such a load is no known one.
        for _ in 0..5 {
            let rows = kmalloc_of_messages(size);
            let count = sum_of(&rows, "count", |_| true);
            assert!(count >= MESSAGES, "{rows:?}");
            if count == MESSAGES {
                return sum_of(&rows, "requested_bytes", |_| true);
            }
        }
        panic!("never {MESSAGES} allocations for as many messages");
    });
    assert_eq!(requested[1] - requested[0], MESSAGES * (904 - 104));
}

const MESSAGES: u64 = 500;

/// What `kmalloc` tells of sending and receiving [`MESSAGES`] of `size` bytes.
fn kmalloc_of_messages(size: usize) -> Vec<Value> {
    let prepare = move || {
        // SAFETY: takes integers alone.
        let queue = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) };
        assert!(queue >= 0);
        (queue, vec![1_u64; 1 + size / 8])
    };
    tallied("kmalloc", prepare, move |(queue, mut message)| {
        // SAFETY: a message queue of our own, removed at the end; the buffer outlives the calls.
        unsafe {
            for _ in 0..MESSAGES {
                assert_eq!(libc::msgsnd(queue, message.as_ptr().cast(), size, 0), 0);
                let got = libc::msgrcv(queue, message.as_mut_ptr().cast(), size, 0, 0);
                assert_eq!(got, size as isize);
            }
            libc::msgctl(queue, libc::IPC_RMID, std::ptr::null_mut());
        }
    })
}

#[test]
fn pagealloc_counts_touched_pages() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    const PAGES: u64 = 3072;
    fn touch(memory: &mut memmap2::MmapMut) {
        for page in memory.chunks_mut(PAGE) {
            page[0] = 1;
        }
    }
    let prepare = || {
        let mut memory = memmap2::MmapMut::map_anon(PAGES as usize * PAGE).unwrap();
        memory.advise(memmap2::Advice::NoHugePage).unwrap();
        touch(&mut memory);
        // The pages go, and their tables stay: one goes only when all that it is for goes at once
        // (6.14 and later).
        for part in memory.chunks_mut(128 * PAGE) {
            // SAFETY: memory of our own that nobody refers to now.
            let result =
                unsafe { libc::madvise(part.as_mut_ptr().cast(), part.len(), libc::MADV_DONTNEED) };
            assert_eq!(result, 0);
        }
        memory
    };
    let rows = tallied("pagealloc", prepare, |mut memory| {
        touch(&mut memory);
        std::mem::forget(memory);
    });
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(sum_of(&rows, "count", |_| true), PAGES);
    assert_eq!(sum_of(&rows, "pages", |_| true), PAGES);
}
