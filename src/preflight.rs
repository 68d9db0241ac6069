//! What must be true before a BPF program is loaded: privileges, BTF, kernel features.

/// placeholder
pub fn explain_bpf_error(error: anyhow::Error, doing: &str) -> anyhow::Error {
    error.context(doing.to_owned())
}
/// placeholder
#[must_use]
pub fn no_btf(error: &str) -> crate::error::Error {
    crate::error::Error::NotAvailable {
        problem: error.into(),
        remedy: String::new(),
    }
}
