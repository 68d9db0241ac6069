//! One perf ring buffer: a page of control data, then 2^n pages the kernel writes records to.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use perf_event_open_sys::bindings::perf_event_mmap_page;

/// The ring of one perf event, unmapped and closed on drop.
#[derive(Debug)]
pub struct Ring {
    // Declared before the event: unmapped first, closed second.
    pages: MmapRaw,
    event: OwnedFd,
    control_bytes: usize,
    data_bytes: usize,
}

impl Ring {
    /// Maps a ring of `data_bytes` (a power of two, at least a page) for `event`.
    pub fn map(event: OwnedFd, data_bytes: usize) -> io::Result<Self> {
        let control_bytes = rustix::param::page_size();
        let data_bytes = data_bytes.next_power_of_two().max(control_bytes);
        let pages = MmapOptions::new()
            .len(control_bytes + data_bytes)
            .map_raw(event.as_raw_fd())?;
        Ok(Self {
            pages,
            event,
            control_bytes,
            data_bytes,
        })
    }

    /// The event whose records the ring holds.
    pub fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Moves all unread bytes to the end of `out`. Returns whether the positions made no sense,
    /// in which case everything unread is skipped.
    pub fn read(&mut self, out: &mut Vec<u8>) -> bool {
        let control = control_page(&self.pages);
        // SAFETY: the mapping starts with a whole control page, page-aligned, mapped read-write
        // for as long as `self` lives; the kernel accesses the two positions as aligned 64-bit
        // words, and we do so only through these atomics.
        let (head, tail) = unsafe {
            (
                AtomicU64::from_ptr(&raw mut (*control).data_head),
                AtomicU64::from_ptr(&raw mut (*control).data_tail),
            )
        };
        // Acquire pairs with the kernel's barrier between writing records and moving the head.
        let written = head.load(Ordering::Acquire);
        let read = tail.load(Ordering::Relaxed);
        let unread = written.wrapping_sub(read);
        let overrun = unread > self.data_bytes as u64;
        if !overrun {
            self.copy(read, unread as usize, out);
        }
        // Release: the kernel may overwrite the records only after they have been copied.
        tail.store(written, Ordering::Release);
        overrun
    }

    /// Copies `count` bytes from the free-running position `from`, across the ring's end.
    fn copy(&self, from: u64, count: usize, out: &mut Vec<u8>) {
        let offset = (from as usize) & (self.data_bytes - 1);
        let until_end = count.min(self.data_bytes - offset);
        out.reserve(count);
        for (offset, count) in [(offset, until_end), (0, count - until_end)] {
            let old_len = out.len();
            // SAFETY: `offset + count <= data_bytes`, so the source lies within the mapping; the
            // kernel does not write between tail and head; `reserve` made room for the bytes,
            // which are initialized when the length is set.
            unsafe {
                let source = self.pages.as_ptr().add(self.control_bytes + offset);
                ptr::copy_nonoverlapping(source, out.as_mut_ptr().add(old_len), count);
                out.set_len(old_len + count);
            }
        }
    }
}

/// The mapping starts with it, at a page boundary.
fn control_page(pages: &MmapRaw) -> *mut perf_event_mmap_page {
    pages.as_mut_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// A ring whose kernel side is this test: a file of one control page and one data page.
    fn ring_at(position: u64, bytes: &[u8]) -> (tempfile::NamedTempFile, Ring) {
        let page = rustix::param::page_size();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(2 * page as u64).unwrap();
        let ring = Ring::map(
            File::options()
                .read(true)
                .write(true)
                .open(file.path())
                .unwrap()
                .into(),
            page,
        )
        .unwrap();
        let control = control_page(&ring.pages);
        for (index, byte) in bytes.iter().enumerate() {
            let offset = page + (position as usize + index) % page;
            // SAFETY: the offset lies within the second of the two mapped pages.
            unsafe { *ring.pages.as_mut_ptr().add(offset) = *byte };
        }
        // SAFETY: the mapping starts with a whole control page.
        unsafe {
            (*control).data_tail = position;
            (*control).data_head = position + bytes.len() as u64;
        }
        (file, ring)
    }

    #[test]
    fn reads_across_the_end_once() {
        let page = rustix::param::page_size() as u64;
        let bytes: Vec<u8> = (0..100).collect();
        let (_file, mut ring) = ring_at(5 * page - 40, &bytes);
        let mut out = vec![9];
        assert!(!ring.read(&mut out));
        assert_eq!(out[1..], bytes);
        out.clear();
        assert!(!ring.read(&mut out));
        assert!(out.is_empty());
    }

    #[test]
    fn skips_positions_that_make_no_sense() {
        let (_file, mut ring) = ring_at(0, &vec![1; rustix::param::page_size() + 8]);
        let mut out = Vec::new();
        assert!(ring.read(&mut out));
        assert!(out.is_empty());
        assert!(!ring.read(&mut out));
    }
}
