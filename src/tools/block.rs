//! What the block I/O tools share: hooks, disks, names of operations and flags.

use std::path::Path;

use super::hooks::{Need, Shape, Way};
use crate::bpf::{Global, Hook, Parameter, Settings};
use crate::error::Error;

const MINOR_BITS: u32 = 20;
const OPERATION_MASK: u64 = 0xff;

const NO_BLOCK_LAYER: &str =
    "use a kernel built with CONFIG_BLOCK and CONFIG_DEBUG_INFO_BTF; /proc/diskstats has totals";

/// The issue of a request to its driver.
pub static ISSUE: Need = Need {
    what: "issue of requests",
    ways: &[
        Way {
            attach: &[("issue", Hook::TpBtf("block_rq_issue"))],
            shape: Shape::Parameters(1),
            since: "5.11, 5.10.137",
        },
        Way {
            attach: &[("issue_with_queue", Hook::TpBtf("block_rq_issue"))],
            shape: Shape::Parameters(2),
            since: "before 5.11",
        },
    ],
    instead: NO_BLOCK_LAYER,
    optional: false,
};

/// The completion of a request.
pub static COMPLETE: Need = Need {
    what: "completion of requests",
    ways: &[Way {
        attach: &[("complete", Hook::TpBtf("block_rq_complete"))],
        shape: Shape::Parameters(3),
        since: "5.10 and later",
    }],
    instead: NO_BLOCK_LAYER,
    optional: false,
};

/// The task that asks for the I/O.
pub static OWNER: Need = Need {
    what: "owner of requests",
    ways: &[
        Way {
            attach: &[("io_start", Hook::TpBtf("block_io_start"))],
            shape: Shape::Any,
            since: "6.5",
        },
        Way {
            attach: &[("getrq", Hook::TpBtf("block_getrq"))],
            shape: Shape::Parameters(1),
            since: "5.11, 5.10.137",
        },
        Way {
            attach: &[("getrq_with_queue", Hook::TpBtf("block_getrq"))],
            shape: Shape::Passes(2, 1, Parameter::Pointer),
            since: "before 5.11",
        },
    ],
    instead: NO_BLOCK_LAYER,
    optional: false,
};

/// The settings of `-d DISK`.
///
/// # Errors
/// [`Error::Usage`] when there is no such disk, or one that makes no requests of its own.
pub fn disk_filter(settings: Settings, disk: Option<&str>) -> Result<Settings, Error> {
    match disk {
        Some(name) => Ok(settings
            .global("filter_disk", Global::Bool(true))
            .global("wanted_disk", Global::U32(disk_number(name)?))),
        None => Ok(settings),
    }
}

fn disk_number(disk: &str) -> Result<u32, Error> {
    let name = disk.strip_prefix("/dev/").unwrap_or(disk);
    let unknown = || Error::Usage(format!("no such disk: {disk}; `ls /sys/block` lists them"));
    if name.is_empty() || name.contains(['/', '.']) {
        return Err(unknown());
    }
    let folder = Path::new("/sys/class/block").join(name);
    let numbers = std::fs::read_to_string(folder.join("dev")).map_err(|_| unknown())?;
    if folder.join("partition").exists() {
        return Err(Error::Usage(format!(
            "{disk} is a partition; requests name the whole disk"
        )));
    }
    if !folder.join("mq").exists() {
        return Err(Error::Usage(format!(
            "{disk} makes no requests of its own (a device mapper, md or zram device): name a \
             disk below it, see /sys/block/{name}/slaves"
        )));
    }
    let (major, minor) = numbers.trim().split_once(':').ok_or_else(unknown)?;
    let parse = |text: &str| text.parse::<u32>().map_err(|_| unknown());
    Ok(parse(major)? << MINOR_BITS | parse(minor)?)
}

/// Major and minor number.
pub fn numbers(disk: u32) -> (u32, u32) {
    (disk >> MINOR_BITS, disk & ((1 << MINOR_BITS) - 1))
}

/// The disk's name, or its numbers when it is gone.
pub fn disk_name(disk: u32) -> String {
    let (major, minor) = numbers(disk);
    let numbers = format!("{major}:{minor}");
    std::fs::read_link(format!("/sys/dev/block/{numbers}"))
        .ok()
        .and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or(numbers)
}

/// `enum req_op` (`include/linux/blk_types.h`), as far as it is the same from 5.10 on.
pub fn operation_name(operation: u64) -> String {
    match operation & OPERATION_MASK {
        0 => "Read".into(),
        1 => "Write".into(),
        2 => "Flush".into(),
        3 => "Discard".into(),
        5 => "SecureErase".into(),
        9 => "WriteZeroes".into(),
        34 => "DriverIn".into(),
        35 => "DriverOut".into(),
        other => format!("Operation{other}"),
    }
}

/// One letter: R, W, F(lush), D(iscard) or `-`.
pub fn operation_letter(operation: u64) -> char {
    match operation & OPERATION_MASK {
        0 => 'R',
        1 => 'W',
        2 => 'F',
        3 | 5 => 'D',
        _ => '-',
    }
}

/// Flags and operation as bcc names them: `Sync-Write`. Bits are those of `enum req_flag_bits`
/// that 5.10 to 7.2 have in common.
pub fn flags_name(flags: u64) -> String {
    const NAMES: &[(u32, &str)] = &[
        (11, "Sync"),
        (12, "Metadata"),
        (13, "Priority"),
        (14, "NoMerge"),
        (15, "Idle"),
        (16, "Integrity"),
        (17, "ForcedUnitAccess"),
        (18, "Preflush"),
        (19, "ReadAhead"),
        (20, "Background"),
        (21, "NoWait"),
    ];
    let mut parts: Vec<String> = NAMES
        .iter()
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, name)| (*name).to_owned())
        .collect();
    parts.push(operation_name(flags));
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_named_as_people_know_them() {
        assert_eq!(flags_name(1 << 11 | 1), "Sync-Write");
        assert_eq!(flags_name(1 << 12 | 1 << 13), "Metadata-Priority-Read");
        assert_eq!(flags_name(2), "Flush");
    }

    #[test]
    fn no_path_leaves_the_folder_of_disks() {
        for disk in ["", "..", "../../../etc", "a/b", "nodisk"] {
            assert!(disk_number(disk).is_err(), "{disk}");
        }
    }

    #[test]
    fn numbers_and_back() {
        assert_eq!(numbers((7 << 20) + 3), (7, 3));
        assert_eq!(disk_name((4095 << 20) + 77), "4095:77");
    }
}
