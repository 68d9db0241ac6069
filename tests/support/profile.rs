//! Profiles for tests of rendering.

use std::time::Duration;

use flame::profile::model::{
    Frame, FrameId, FrameKind, Meta, Profile, Quality, Stack, UnknownModule,
};

/// A frame and its kind.
pub type Named<'a> = (&'a str, FrameKind);

/// A profile of these stacks, root first.
pub fn from_stacks(stacks: &[(Vec<Named<'_>>, u64)]) -> Profile {
    let mut profile = Profile::default();
    for (names, count) in stacks {
        let mut frames = Vec::new();
        for (name, kind) in names {
            let frame = Frame {
                name: (*name).into(),
                kind: *kind,
            };
            let known = profile.frames.iter().position(|known| *known == frame);
            let id = known.unwrap_or_else(|| {
                profile.frames.push(frame);
                profile.frames.len() - 1
            });
            frames.push(FrameId(id as u32));
        }
        profile.stacks.push(Stack {
            frames: frames.into(),
            count: *count,
        });
    }
    profile
}

/// What a few seconds of a database, a C++ server and a JIT could look like: every kind of frame,
/// every kind of loss, and names that try to break out.
pub fn mixed() -> Profile {
    Profile {
        meta: meta(),
        quality: quality(),
        ..from_stacks(&mixed_stacks())
    }
}

// A table.
#[allow(clippy::too_many_lines)]
fn mixed_stacks() -> Vec<(Vec<Named<'static>>, u64)> {
    use FrameKind::{Inlined, Jit, Kernel, Task, Unknown, User};
    let postgres = || -> Vec<Named<'static>> {
        vec![
            ("postgres", Task),
            ("_start", User),
            ("main", User),
            ("PostmasterMain", User),
        ]
    };
    let with = |mut stack: Vec<Named<'static>>, more: &[Named<'static>]| {
        stack.extend_from_slice(more);
        stack
    };
    let exec = || {
        with(
            postgres(),
            &[
                ("exec_simple_query", User),
                ("PortalRun", User),
                ("ExecScan", User),
            ],
        )
    };
    let read: &[Named<'static>] = &[
        ("read", User),
        ("do_syscall_64", Kernel),
        ("ksys_read", Kernel),
        ("vfs_read", Kernel),
    ];
    let server = || -> Vec<Named<'static>> {
        vec![
            ("http worker 3", Task),
            ("start_thread", User),
            (
                "server::Pool<server::Http, std::allocator<char> >::run()",
                User,
            ),
        ]
    };
    vec![
        (exec(), 120),
        (
            with(
                exec(),
                &[("heap_getnextslot", User), ("HeapTupleSatisfies", Inlined)],
            ),
            210,
        ),
        (with(exec(), read), 90),
        (
            with(
                postgres(),
                &[("ServerLoop", User), ("[libz.so.1.3+0x1a2b]", Unknown)],
            ),
            40,
        ),
        (with(postgres(), &[("ServerLoop.cold", User)]), 30),
        (
            with(server(), &[("std::sort<int*>(int*, int*)", Inlined)]),
            80,
        ),
        (
            with(
                server(),
                &[
                    ("poll", User),
                    ("do_syscall_64", Kernel),
                    ("__x64_sys_poll", Kernel),
                ],
            ),
            70,
        ),
        (
            vec![
                ("node", Task),
                ("Lmain", Jit),
                ("~render /app/index.js:3", Jit),
            ],
            60,
        ),
        (
            vec![("node", Task), ("Lmain", Jit), ("[unknown]", Unknown)],
            20,
        ),
        (vec![("http worker 3", Task)], 5),
        (
            vec![
                ("a;b\n<script>alert(1)</script>", Task),
                ("]]>&\"'\u{202e}\x1b[2J", User),
            ],
            25,
        ),
        (
            vec![
                ("swapper", Task),
                ("forged_[k]", User),
                ("# comment 12", User),
            ],
            15,
        ),
        (vec![("rare", Task), ("too_narrow_to_draw", User)], 1),
    ]
}

fn meta() -> Meta {
    Meta {
        command_line: "flame -p 101,102 30 -o out.svg --title='<script>]]>'".into(),
        host: "db-1".into(),
        kernel: "6.12.48".into(),
        duration: Duration::from_millis(5_020),
        frequency_hz: 99,
        event: "cpu-clock".into(),
        cpus: 2,
    }
}

fn quality() -> Quality {
    Quality {
        expected: Some(994),
        taken: 993,
        recorded: 766,
        idle: 220,
        filtered: 4,
        lost: vec![("stack map full", 2), ("unreadable stack", 1)],
        rescued: vec![("stack-map collision", 6)],
        missed: Vec::new(),
        user_stacks: 760,
        rooted: 700,
        rooted_and_named: 640,
        truncated: vec![("deeper than 127 frames", 60)],
        unknown: vec![
            UnknownModule {
                module: "libz.so.1.3".into(),
                frames: 40,
                remedy: "install zlib1g-dbgsym".into(),
            },
            UnknownModule {
                module: "[anonymous]".into(),
                frames: 20,
                remedy: "let the runtime write a perf map (node --perf-basic-prof)".into(),
            },
        ],
    }
}
