use std::path::PathBuf;

/// The `shoal` program under test: what SHOAL_BIN names, or the one beside the test programs.
pub fn shoal_binary() -> PathBuf {
    let binary = match std::env::var_os("SHOAL_BIN") {
        Some(path) => PathBuf::from(path),
        // <target folder>/debug/deps/<test program>
        None => std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("shoal"),
    };
    assert!(
        binary.is_file(),
        "{} is missing: build it (`cargo build -p shoal-cli`) or set SHOAL_BIN",
        binary.display()
    );
    binary
}
