/// What images for this machine's processor name as their architecture (OCI image specification, "platform": as Go has
/// it).
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
