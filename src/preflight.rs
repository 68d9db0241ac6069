//! What must be true before a BPF program is loaded: privileges, BTF, kernel features.
