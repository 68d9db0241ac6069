//! The manual page: one page for all modes, made from the same clap tables as the help.

use std::io::{self, Write};

use clap_mangen::Man;

const EXIT_STATUS: &str = r#".SH "EXIT STATUS"
.TP
0
done
.TP
1
failed
.TP
2
the command line cannot be understood
.TP
3
not permitted, or the kernel lacks what the mode needs; the message names the remedy
.TP
4
a gate (\-\-min\-quality) failed
"#;

/// Writes the page as roff.
pub fn write_man_page(out: &mut dyn Write) -> io::Result<()> {
    let command = super::command();
    let modes: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    // The page says itself what `help` and --help's examples say.
    let page = Man::new(command.after_long_help(None::<&str>)).manual("User Commands");
    page.render_title(out)?;
    page.render_name_section(out)?;
    render_synopsis(out)?;
    page.render_description_section(out)?;
    page.render_options_section(out)?;
    for mode in modes {
        render_mode(mode, out)?;
    }
    render_examples(out)?;
    out.write_all(EXIT_STATUS.as_bytes())
}

/// clap's own synopsis would list every option and know nothing of the rule for numbers.
fn render_synopsis(out: &mut dyn Write) -> io::Result<()> {
    let usages = [super::profile::USAGE, "flame MODE [OPTIONS]"];
    writeln!(
        out,
        ".SH SYNOPSIS\n.nf\n{}\n.fi",
        escape(&usages.join("\n"))
    )
}

/// A section of its own for each mode that is not the default one.
fn render_mode(mode: clap::Command, out: &mut dyn Write) -> io::Result<()> {
    let name = mode.get_name().to_string();
    let about = mode
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    writeln!(
        out,
        ".SH \"FLAME {}\"\n{}",
        escape(&name.to_uppercase()),
        escape(&about)
    )?;
    if name == "profile" {
        return writeln!(out, "Its options are those above.");
    }
    if mode.get_arguments().next().is_none() {
        return Ok(());
    }
    let mut options = Vec::new();
    Man::new(mode).render_options_section(&mut options)?;
    let options = String::from_utf8_lossy(&options).replacen(".SH OPTIONS", ".PP", 1);
    out.write_all(options.as_bytes())
}

fn render_examples(out: &mut dyn Write) -> io::Result<()> {
    let lines = super::profile::EXAMPLES
        .lines()
        .skip(1)
        .take_while(|line| !line.is_empty());
    let examples: Vec<&str> = lines.map(str::trim_start).collect();
    writeln!(
        out,
        ".SH EXAMPLES\n.nf\n{}\n.fi",
        escape(&examples.join("\n"))
    )
}

/// Text without control lines: backslashes and hyphens are roff's, a leading dot would be a
/// request.
fn escape(text: &str) -> String {
    text.replace('\\', r"\e")
        .replace('-', r"\-")
        .replace("\n.", "\n\\&.")
}
