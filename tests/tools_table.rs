//! Every row of the table of tools is complete, and both sides of the kernel boundary agree.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::mem::{offset_of, size_of};
use std::path::Path;

use flame::tools::histogram::Histogram;
use flame::tools::kernel_side::{Losses, ReportKey, Tally};
use flame::tools::tcp::TcpEvent;
use flame::tools::zfs_txg::TxgEvent;
use flame::tools::{TOOLS, command};

mod btf;

#[test]
fn help_says_what_each_tool_is() {
    for row in TOOLS {
        let about = command(row).get_about().map(ToString::to_string);
        assert_eq!(about.as_deref(), Some(row.about), "{}", row.name);
    }
}

#[test]
fn a_tool_is_an_object_a_sample_and_a_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for row in TOOLS {
        let name = row.name;
        for path in [
            format!("ebpf/{name}.bpf.c"),
            format!("src/tools/{}.rs", name.replace('-', "_")),
            format!("samples/{name}.txt"),
            format!("docs/{name}.md"),
        ] {
            assert!(root.join(&path).is_file(), "{path} is missing");
        }
        assert!(
            flame::bpf::object(name).is_some(),
            "no object of {name} is embedded"
        );
        let sample = std::fs::read_to_string(root.join(format!("samples/{name}.txt"))).unwrap();
        assert!(
            sample.contains(&format!("# flame {name}")),
            "the sample of {name} shows its command"
        );
    }
}

#[test]
fn the_command_lines_of_all_tools_are_sound() {
    for row in TOOLS {
        command(row).debug_assert();
    }
}

macro_rules! assert_same_layout {
    ($structs:expr, $c_name:literal, $rust:ty, [$($field:ident),+ $(,)?]) => {{
        let layout = &$structs[$c_name];
        let fields: &[(&str, usize)] = &[$((stringify!($field), offset_of!($rust, $field))),+];
        for (field, offset) in fields {
            assert_eq!(layout.members.get(*field), Some(offset), "{}.{field}", $c_name);
        }
        assert_eq!((layout.size, layout.members.len()), (size_of::<$rust>(), fields.len()));
    }};
}

#[test]
fn keys_counts_and_events_agree() {
    let of = |tool| btf::structs(flame::bpf::object(tool).unwrap());
    let structs = of("biotop");
    assert_same_layout!(structs, "report_key", ReportKey, [epoch, id, detail, comm]);
    assert_same_layout!(structs, "tally", Tally, [count, amount, extra]);
    assert_same_layout!(
        structs,
        "losses",
        Losses,
        [
            start_map_full,
            report_map_full,
            ring_full,
            end_without_start,
            not_reported,
        ]
    );
    assert_same_layout!(of("biolatency"), "histogram", Histogram, [sum, max, slots]);
    assert_same_layout!(
        of("zfs-txg"),
        "txg_event",
        TxgEvent,
        [duration_ns, txg, spa, pool]
    );
    for tool in ["tcplife", "tcpretrans"] {
        assert_same_layout!(
            of(tool),
            "tcp_event",
            TcpEvent,
            [
                duration_ns,
                sent_bytes,
                received_bytes,
                tgid,
                family,
                local_port,
                remote_port,
                state,
                loss_probe,
                unused,
                local,
                remote,
                comm,
            ]
        );
    }
}
