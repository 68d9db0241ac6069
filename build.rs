//! Hands the committed BPF objects (`ebpf/prebuilt/*.bpf.o`) to the crate, and does nothing else.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("ebpf/prebuilt");
    println!("cargo::rerun-if-changed={}", folder.display());

    let mut objects: Vec<PathBuf> = fs::read_dir(&folder)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    objects.retain(|path| path.to_string_lossy().ends_with(".bpf.o"));
    objects.sort();

    let mut table = String::from("&[\n");
    for path in &objects {
        println!("cargo::rerun-if-changed={}", path.display());
        let file = path
            .file_name()
            .ok_or("object without a name")?
            .to_string_lossy();
        let mode = file.trim_end_matches(".bpf.o");
        let literal = path
            .to_str()
            .ok_or("the path of the checkout is not UTF-8")?;
        writeln!(
            table,
            "    ({mode:?}, aya::include_bytes_aligned!({literal:?})),"
        )?;
    }
    table.push_str("]\n");
    fs::write(
        PathBuf::from(env::var("OUT_DIR")?).join("bpf_objects.rs"),
        table,
    )?;
    Ok(())
}
