//! A cluster of real processes on this machine: network namespaces, shaped links, a real registry.
