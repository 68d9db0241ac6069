//! Command lines in, configurations out.

use super::*;
use crate::profile::config::{Destination, Targets, Unwind};

fn surroundings() -> Surroundings {
    Surroundings {
        stdout_is_terminal: true,
        max_sample_rate_hz: Some(100_000),
        executable_of: |_| None,
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
        ("flame -F 100001", "limit of 100000"),
        ("flame -F 99 -e page-faults", "no meaning for page-faults"),
        ("flame -e nope", "known: cpu-clock"),
        ("flame -U -K", "cannot be used with"),
        ("flame -q -v", "cannot be used with"),
        ("flame -C -1", "-1"),
        ("flame -C x", "'x'"),
        ("flame --min-width NaN", "percentage"),
        ("flame --min-quality 101", "percentage"),
        ("flame --min-quality -1", "percentage"),
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
