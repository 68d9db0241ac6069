//! Command lines in, configurations out.

use std::os::unix::ffi::OsStringExt;

use proptest::strategy::Strategy;

use super::*;
use crate::profile::config::{Destination, Targets, Unwind};

fn surroundings() -> Surroundings {
    Surroundings {
        stdout_is_terminal: true,
        max_sample_rate_hz: Some(5000),
        executable_of,
    }
}

/// 101 to 103 run one executable, 500 another; nothing else is a process with an executable.
fn executable_of(pid: u32) -> Option<ExecutableId> {
    match pid {
        101..=103 => Some(ExecutableId {
            device: 1,
            inode: 7,
        }),
        500 => Some(ExecutableId {
            device: 2,
            inode: 7,
        }),
        _ => None,
    }
}

fn parse_line(line: &str) -> Result<Invocation, Error> {
    parse_in(line.split_whitespace().map(OsString::from), &surroundings())
}

fn config_of(line: &str) -> ProfileConfig {
    match parse_line(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .command
    {
        Command::Profile(config) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn first_destination(config: &ProfileConfig) -> &Destination {
    &config.outputs[0].destination
}

#[test]
fn the_table_is_consistent() {
    command().debug_assert();
    for mode in MODES {
        assert_eq!((mode.command)().get_name(), mode.name);
    }
}

#[test]
fn profile_is_the_default_mode_and_every_spelling_of_it_is_the_same() {
    for line in [
        "flame -a -p 1,2 30 -o x.svg",
        "flame profile -a -p 1,2 30 -o x.svg",
        "flame -ap 1 -p 2 30 --output x.svg",
        "flame -o x.svg -p 1 2 30 -a",
        "/usr/bin/profile -ap1 2 -ox.svg 30",
        "flame -d 30 1 2 -ao x.svg",
    ] {
        let config = config_of(line);
        assert_eq!(config.targets, Targets::Pids(vec![1, 2]), "{line}");
        assert_eq!(
            config.duration,
            Some(std::time::Duration::from_secs(30)),
            "{line}"
        );
        assert_eq!(
            first_destination(&config),
            &Destination::File("x.svg".into()),
            "{line}"
        );
        assert!(
            config.annotate_kernel && config.picture.annotate_kernel,
            "{line}"
        );
    }
}

#[test]
fn nothing_given_means_the_whole_machine_at_99_hz_into_flame_svg() {
    let config = config_of("flame");
    assert_eq!(config.targets, Targets::System);
    assert_eq!(config.duration, None);
    assert_eq!(
        (config.frequency_hz, config.event.as_str()),
        (99, "cpu-clock")
    );
    assert_eq!(
        first_destination(&config),
        &Destination::File("flame.svg".into())
    );
    assert!(config.user_stacks && config.kernel_stacks && config.inherit && config.inline);
    assert!(!config.include_idle && !config.quiet && !config.per_thread && !config.per_cpu);
    assert_eq!(config.unwind, Unwind::Auto);
    assert_eq!(config.command_line, "flame");
}

/// Targets and duration as text.
fn whom_and_how_long(config: &ProfileConfig) -> String {
    let whom = match &config.targets {
        Targets::System => "all".to_string(),
        Targets::Pids(pids) => format!("{pids:?}"),
        Targets::Command(words) => format!("{words:?}"),
    };
    match config.duration {
        Some(duration) => format!("{whom} for {duration:?}"),
        None => whom,
    }
}

#[test]
fn numbers_are_read_as_the_contract_says() {
    for (line, expected) in [
        ("10", "all for 10s"),
        ("0.5", "all for 500ms"),
        (".5", "all for 500ms"),
        ("90s", "all for 90s"),
        ("-d 1m", "all for 60s"),
        ("-d 500ms", "all for 500ms"),
        ("-d 2h", "all for 7200s"),
        ("-p 101", "[101]"),
        ("-p 101 30", "[101] for 30s"),
        ("-p 101 102 103 30", "[101, 102, 103] for 30s"),
        ("-p 101,102 -p 103 30", "[101, 102, 103] for 30s"),
        ("-p 101,101 -p 102 101 30", "[101, 102] for 30s"),
        ("101 102 30", "[101, 102] for 30s"),
        // With -d every number is a PID, also one that stands alone or looks like a duration.
        ("-d 5 101", "[101] for 5s"),
        ("-p 101 102 30 -d 5", "[101, 102, 30] for 5s"),
        ("-d 30 -p 101 102 103", "[101, 102, 103] for 30s"),
        // Another executable, the same number twice, a unit, a fraction: no PID is meant.
        ("-p 101 500", "[101] for 500s"),
        ("-p 101 101", "[101] for 101s"),
        ("-p 101 102s", "[101] for 102s"),
        ("-p 101 102.0", "[101] for 102s"),
        ("-- make -j2", r#"["make", "-j2"]"#),
        ("30 -- make -j2", r#"["make", "-j2"] for 30s"#),
        ("-d 30 -- 101 102", r#"["101", "102"] for 30s"#),
    ] {
        let config = config_of(&format!("flame {line}"));
        assert_eq!(whom_and_how_long(&config), expected, "flame {line}");
    }
}

#[test]
fn a_quoted_pgrep_is_a_list_too() {
    let args = ["flame", "-p", "101\n102\n103\n", "30"].map(OsString::from);
    match parse_in(args, &surroundings()).unwrap().command {
        Command::Profile(config) => {
            assert_eq!(whom_and_how_long(&config), "[101, 102, 103] for 30s");
        }
        other => panic!("{other:?}"),
    }
    for nothing in ["", " \n", ","] {
        let args = ["flame", "-p", nothing, "30"].map(OsString::from);
        let message = parse_in(args, &surroundings()).unwrap_err().to_string();
        assert!(message.contains("no PID"), "{message}");
    }
}

#[test]
fn a_forgotten_duration_is_not_guessed() {
    for line in ["-p 101 102", "-p 101 500 103", "-p 500,101 102", "101 102"] {
        let message = parse_line(&format!("flame {line}"))
            .unwrap_err()
            .to_string();
        assert!(message.contains("is a process: -p"), "{line}: {message}");
        assert!(message.contains("is the duration: -p"), "{line}: {message}");
    }
    let message = parse_line("flame -p 101 102 103").unwrap_err().to_string();
    assert!(message.contains("-p 101,102,103 -d SECONDS"), "{message}");
    assert!(message.contains("-p 101,102 -d 103"), "{message}");
}

/// Every output as `FORMAT > PLACE`.
fn outputs_of(line: &str, stdout_is_terminal: bool) -> String {
    let surroundings = Surroundings {
        stdout_is_terminal,
        ..surroundings()
    };
    let args = line.split_whitespace().map(OsString::from);
    let Command::Profile(config) = parse_in(args, &surroundings).unwrap().command else {
        panic!("{line} is no profile");
    };
    let shown = config
        .outputs
        .iter()
        .map(|output| match &output.destination {
            Destination::Stdout => format!("{} > -", output.format.name),
            Destination::File(path) => format!("{} > {}", output.format.name, path.display()),
        });
    shown.collect::<Vec<_>>().join("; ")
}

#[test]
fn results_go_where_the_contract_says() {
    for (line, terminal, expected) in [
        ("flame", true, "svg > flame.svg"),
        ("flame", false, "folded > -"),
        ("flame -f", true, "folded > -"),
        ("flame -f --format folded", true, "folded > -"),
        ("flame --format folded", true, "folded > flame.folded"),
        ("flame --format svg", false, "svg > -"),
        ("flame -o -", true, "folded > -"),
        ("flame -o - --format svg", false, "svg > -"),
        ("flame -o a.svg", false, "svg > a.svg"),
        ("flame -o A.SVG", false, "svg > A.SVG"),
        ("flame -o a.b/c.d.txt", false, "folded > a.b/c.d.txt"),
        (
            "flame -o a.svg -o b.folded -o -",
            true,
            "svg > a.svg; folded > b.folded; folded > -",
        ),
        ("flame -f -o a.svg", true, "svg > a.svg; folded > -"),
        ("flame -o a --format svg", true, "svg > a"),
        (
            "flame -o a.txt -f --format svg",
            true,
            "svg > a.txt; folded > -",
        ),
    ] {
        assert_eq!(
            outputs_of(line, terminal),
            expected,
            "{line} (terminal: {terminal})"
        );
    }
}

#[test]
fn every_option_reaches_the_configuration() {
    let config = config_of(
        "flame -F 999 -e cycles -U -f -C 3 --cgroup /x --per-thread --per-cpu -I --no-inherit \
         --unwind dwarf --no-inline --stats s.json --min-quality 99.5 --title T --colors hot \
         --inverted --min-width 0 -q",
    );
    assert_eq!(
        (config.frequency_hz, config.event.as_str()),
        (999, "cycles")
    );
    assert!(config.user_stacks && !config.kernel_stacks);
    assert_eq!(first_destination(&config), &Destination::Stdout);
    assert_eq!(config.cpu, Some(3));
    assert_eq!(config.cgroup.as_deref(), Some(Path::new("/x")));
    assert!(config.per_thread && config.per_cpu && config.include_idle && config.quiet);
    assert!(!config.inherit && !config.inline);
    assert_eq!(config.unwind, Unwind::Dwarf);
    assert_eq!(config.stats.as_deref(), Some(Path::new("s.json")));
    assert_eq!(config.min_quality_pct, Some(99.5));
    assert_eq!(config.picture.title.as_deref(), Some("T"));
    assert_eq!(config.picture.colors.as_deref(), Some("hot"));
    assert!(config.picture.inverted && config.picture.min_width_pct == 0.0);
    assert!(!config_of("flame -K").user_stacks);
}

#[test]
fn a_command_keeps_its_own_options_and_names_of_modes() {
    let config = config_of("flame 30 -- man -k -o x --help");
    let words = ["man", "-k", "-o", "x", "--help"]
        .map(OsString::from)
        .to_vec();
    assert_eq!(config.targets, Targets::Command(words));
    assert_eq!(config.command_line, "flame 30 -- man -k -o x --help");
}

#[test]
fn the_last_of_two_opposite_idle_options_wins() {
    assert!(config_of("flame --exclude-idle -I").include_idle);
    assert!(!config_of("flame -I --exclude-idle").include_idle);
}

#[test]
fn verbosity_is_counted() {
    assert_eq!(parse_line("flame -vv 5").unwrap().verbosity, 2);
    assert_eq!(parse_line("flame profile -v").unwrap().verbosity, 1);
}

#[test]
fn usage_errors_say_what_is_wrong() {
    for (line, expected) in [
        ("flame -F 0", "0 is not in 1.."),
        ("flame -F -5", "'-5'"),
        ("flame -F NaN", "'NaN'"),
        ("flame -F 18446744073709551616", "'18446744073709551616'"),
        ("flame -F 10001", "10000 at most"),
        ("flame -F 5001", "limit of 5000"),
        ("flame -F 99 -e page-faults", "no meaning for page-faults"),
        ("flame -e nope", "known: cpu-clock"),
        ("flame -U -K", "cannot be used with"),
        ("flame -q -v", "cannot be used with"),
        ("flame -C -1", "-1"),
        ("flame -C x", "'x'"),
        ("flame --min-width NaN", "percentage"),
        ("flame --min-quality 101", "percentage"),
        ("flame --min-quality -1", "percentage"),
        ("flame -p 0", "'0' is not a PID"),
        ("flame -p x", "'x' is not a PID"),
        ("flame -p +5", "'+5' is not a PID"),
        ("flame -p -5", "'-5' is not a PID"),
        ("flame -p 4194305", "is not a PID"),
        ("flame -p 99999999999999999999", "is not a PID"),
        ("flame -p 101 x 30", "'x' is not a PID"),
        ("flame -p 101 30s -d 5", "'30s' is not a PID"),
        ("flame -p 101 x", "neither a number nor a mode"),
        ("flame profil", "modes: profile, "),
        ("flame make", "flame -- make"),
        ("flame 0", "not a duration"),
        ("flame 0.0001", "not a duration"),
        ("flame -5", "not a duration"),
        ("flame 1.2.3", "not a duration"),
        ("flame 30x", "not a duration"),
        ("flame 99999999999999999999", "not a duration"),
        ("flame -d 0", "not a duration"),
        ("flame -d -1", "not a duration"),
        ("flame -d NaN", "not a duration"),
        ("flame -d inf", "not a duration"),
        ("flame -d 1e3", "not a duration"),
        ("flame -d=", "not a duration"),
        ("flame -d 8761h", "not a duration"),
        ("flame 101 30 -- make", "cannot be profiled together"),
        ("flame -o a.xyz", "folded (."),
        ("flame -o svg", "selects no format"),
        ("flame -o a.svg --format nope", "unknown format 'nope'"),
        ("flame -f --format svg", "-o - --format"),
        ("flame -o - -f", "standard output"),
        ("flame -o - -o -", "standard output"),
        ("flame -o a.svg -o a.svg", "a.svg is written to twice"),
        ("flame -o a.svg -o ./a.svg", "written to twice"),
        ("flame -o a.svg -o src/../a.svg", "written to twice"),
        (
            "flame -o no-such/a.svg -o ./no-such/a.svg",
            "written to twice",
        ),
        (
            "flame -o s.svg --stats ./s.svg",
            "s.svg is written to twice",
        ),
        ("flame -o= --format svg", "needs a name"),
        ("flame --stats -", "--stats needs a file"),
        ("flame --stats=", "a value is required"),
        ("flame --unwind magic", "[possible values: auto, fp, dwarf]"),
        ("flame --colors magic", "possible values: aqua"),
        ("flame --format magic", "formats: svg"),
        ("flame -p 1 -- make", "cannot be profiled together"),
        ("flame --nope", "--nope"),
        ("flame -a profile 30", "profile"),
        ("flame completions", "SHELL"),
        ("flame completions tcsh", "possible values"),
        ("flame man 30", "'30'"),
    ] {
        match parse_line(line) {
            Err(Error::Usage(message)) => {
                assert!(message.contains(expected), "{line}: {message}");
                assert!(!message.starts_with("error"), "{line}: {message}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for line in [
        "flame -h",
        "flame --help",
        "flame profile --help",
        "flame help",
        "profile -h",
    ] {
        match parse_line(line).unwrap().command {
            Command::Print(text) => assert!(text.contains(profile::USAGE), "{line}: {text}"),
            other => panic!("{line}: {other:?}"),
        }
    }
    assert!(matches!(
        parse_line("flame -V").unwrap().command,
        Command::Print(_)
    ));
}

#[test]
fn only_the_base_name_of_the_program_selects_a_mode() {
    assert!(matches!(
        parse_line("man -V"),
        Ok(Invocation {
            command: Command::Print(_),
            ..
        })
    ));
    assert!(matches!(
        parse_line("profile/flame man").unwrap().command,
        Command::Man
    ));
    assert!(parse_in([], &surroundings()).is_ok());
}

#[test]
fn the_command_line_can_be_typed_again() {
    let args = ["/opt/flame", "--title", "it's <b>", "", "-o", "a.svg"].map(OsString::from);
    assert_eq!(
        quote_command_line(&args),
        r"flame --title 'it'\''s <b>' '' -o a.svg"
    );
}

proptest::proptest! {
    /// Words that mean something mixed with words that mean nothing, in any order.
    #[test]
    fn no_command_line_panics_and_every_refusal_is_a_usage_error(
        words in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(vec![
                    "-p", "-d", "-F", "-e", "-o", "-f", "-af", "--", "-", "profile", "man", "help",
                    "101", "102", "30", "0", "-1", "1e9", "4294967296", "1.", ".", "s", "9ms", "r0",
                    "a.svg", "a.b.c", "..", "/", "--stats", "--min-width", "--format", "svg",
                ]).prop_map(|word| word.as_bytes().to_vec()),
                proptest::collection::vec(1_u8.., 0..6),
            ],
            0..8,
        )
    ) {
        let words = words.into_iter().map(OsString::from_vec);
        let args = std::iter::once(OsString::from("flame")).chain(words);
        if let Err(error) = parse_in(args, &surroundings()) {
            proptest::prop_assert_eq!(error.exit_status(), 2);
        }
    }
}
