//! 100 000 unique addresses of a binary with more than 80 MB of DWARF: what we need, against
//! what blazesym itself needs with two threads on sorted input.
//!
//! The binary is a C++ program of many template instances, compiled once (some minutes) from
//! the source below into `target/bench-input/`. Run: `cargo bench --bench symbolize`.

// What cannot be measured stops the measurement; `criterion_group` writes an undocumented function.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolizer};
use criterion::{Criterion, criterion_group, criterion_main};
use flame::symbolize::modules::{Module, ModuleId};
use flame::symbolize::{Options, Queries, symbolize};
use object::{Object, ObjectSection};

const ADDRESSES: usize = 100_000;
const PARTS: usize = 6;
const INSTANCES: usize = 60;
const DWARF_BYTES_MIN: u64 = 80_000_000;

const PART: &str = r"
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>
template <int N> struct Tag { int value; bool operator<(const Tag &o) const { return value * N < o.value; } };
template <int N> int work(int seed) {
  std::vector<Tag<N>> list;
  std::map<std::string, Tag<N>> tree;
  std::unordered_map<int, std::vector<Tag<N>>> table;
  for (int i = 0; i < seed; i++) {
    list.push_back({i ^ N});
    tree[std::to_string(i)] = {i};
    table[i % 7].push_back({i});
  }
  std::sort(list.begin(), list.end());
  std::stable_sort(list.begin(), list.end());
  std::function<int(int)> f = [&](int x) { return x + (int)tree.size() + (int)table.size(); };
  return f(list[0].value);
}
template <int N> struct All { static int run(int s) { return work<N>(s) + All<N - 1>::run(s); } };
template <> struct All<FROM> { static int run(int s) { return s; } };
int PART(int s) { return All<FROM + COUNT>::run(s); }
";

/// Compiles the binary unless it is there.
fn input() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench-input");
    let binary = folder.join("templates");
    if binary.exists() {
        return binary;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("part.cc");
    std::fs::write(&source, PART).unwrap();
    let compilers: Vec<_> = (0..PARTS)
        .map(|part| {
            Command::new("g++")
                .args(["-std=c++17", "-O1", "-g", "-ftemplate-depth=2000", "-c"])
                .arg(format!("-DFROM={}", part * INSTANCES))
                .arg(format!("-DCOUNT={INSTANCES}"))
                .arg(format!("-DPART=part{part}"))
                .arg(&source)
                .arg("-o")
                .arg(folder.join(format!("part{part}.o")))
                .spawn()
                .expect("g++ is needed")
        })
        .collect();
    for mut compiler in compilers {
        assert!(compiler.wait().unwrap().success());
    }
    let declarations: Vec<String> = (0..PARTS)
        .map(|part| format!("int part{part}(int);\n"))
        .collect();
    let declarations = declarations.concat();
    let calls: Vec<String> = (0..PARTS).map(|part| format!("part{part}(n)")).collect();
    let main = folder.join("main.cc");
    let body = format!(
        "{declarations}int main(int n, char **) {{ return {}; }}\n",
        calls.join("+")
    );
    std::fs::write(&main, body).unwrap();
    let mut linker = Command::new("g++");
    linker
        .arg(&main)
        .args((0..PARTS).map(|part| folder.join(format!("part{part}.o"))));
    assert!(linker.arg("-o").arg(&binary).status().unwrap().success());
    binary
}

/// Unique, sorted (file offset, address) pairs all over the binary's code.
fn addresses(binary: &Path) -> Vec<(u64, u64)> {
    let data = std::fs::read(binary).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let dwarf_bytes: u64 = file
        .sections()
        .filter(|section| section.name().is_ok_and(|name| name.starts_with(".debug")))
        .map(|section| section.size())
        .sum();
    assert!(
        dwarf_bytes >= DWARF_BYTES_MIN,
        "{dwarf_bytes} bytes of DWARF"
    );
    let text = file.section_by_name(".text").unwrap();
    let (file_start, size) = text.file_range().unwrap();
    let mut seed = 1_u64;
    let mut within = BTreeSet::new();
    while within.len() < ADDRESSES {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        within.insert((seed >> 20) % size);
    }
    eprintln!(
        "{}: {} MB of DWARF, {ADDRESSES} addresses",
        binary.display(),
        dwarf_bytes / 1_000_000
    );
    within
        .into_iter()
        .map(|at| (file_start + at, text.address() + at))
        .collect()
}

/// blazesym alone: a symbolizer per thread, a half of the sorted addresses each, batches.
fn blazesym_alone(binary: &Path, vaddrs: &[u64], debug_syms: bool) -> usize {
    std::thread::scope(|scope| {
        let halves = vaddrs.chunks(vaddrs.len().div_ceil(2)).map(|half| {
            scope.spawn(move || {
                let symbolizer = Symbolizer::builder()
                    .enable_auto_reload(false)
                    .enable_code_info(debug_syms)
                    .enable_inlined_fns(debug_syms)
                    .build();
                let mut elf = Elf::new(binary);
                elf.debug_syms = debug_syms;
                let source = Source::Elf(elf);
                let named = |batch| {
                    symbolizer
                        .symbolize(&source, Input::VirtOffset(batch))
                        .unwrap()
                };
                half.chunks(4096)
                    .map(|batch| named(batch).len())
                    .sum::<usize>()
            })
        });
        let halves: Vec<_> = halves.collect();
        halves.into_iter().map(|half| half.join().unwrap()).sum()
    })
}

fn compare(criterion: &mut Criterion) {
    let binary = input();
    let (offsets, vaddrs): (Vec<u64>, Vec<u64>) = addresses(&binary).into_iter().unzip();
    let file = File::open(&binary).unwrap();
    let module = Module {
        path: binary.clone(),
        device_inode: (0, 0),
        file: Some(file),
        root: None,
    };
    let queries = Queries {
        files: HashMap::from([(ModuleId(0), offsets)]),
        ..Queries::default()
    };
    for (speed, inline) in [("names", false), ("inlines", true)] {
        let mut group = criterion.benchmark_group(speed);
        group.sample_size(10);
        group.bench_function("blazesym, two threads", |bencher| {
            bencher.iter(|| blazesym_alone(&binary, &vaddrs, inline));
        });
        let options = Options {
            inline,
            ..Options::default()
        };
        group.bench_function("flame", |bencher| {
            bencher.iter(|| symbolize(&queries, |_| &module, &options));
        });
        group.finish();
    }
}

criterion_group!(benches, compare);
criterion_main!(benches);
