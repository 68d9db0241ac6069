//! What the kernel tells about a map or a program in its descriptor's `fdinfo`.

use std::os::fd::{AsRawFd, BorrowedFd};

/// A number by its field's name; `None` where this kernel does not tell it.
pub(super) fn number(descriptor: BorrowedFd<'_>, field: &str) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(name, _)| *name == field)?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(number(file.as_fd(), "pos"), Some(0));
        assert!(number(file.as_fd(), "mnt_id").is_some());
        assert_eq!(number(file.as_fd(), "po"), None);
        assert_eq!(number(file.as_fd(), "recursion_misses"), None);
    }
}
