/// One line of the registry's access log: what it really sent, whatever anybody else claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub method: String,
    /// Path with query.
    pub path: String,
    pub status: u16,
    /// Bytes of the body that were written to the client, less than announced when it hung up.
    pub bytes: u64,
}

impl Access {
    /// Parses a line of the combined log format; `None` for a line that is something else.
    pub fn parse(line: &str) -> Option<Self> {
        let mut quoted = line.split('"');
        let _client = quoted.next()?;
        let mut request = quoted.next()?.split(' ');
        let mut numbers = quoted.next()?.split_whitespace();
        Some(Self {
            method: request.next()?.to_owned(),
            path: request.next()?.to_owned(),
            status: numbers.next()?.parse().ok()?,
            bytes: numbers.next()?.parse().ok()?,
        })
    }

    /// A GET of a manifest that was answered with the manifest.
    pub fn is_manifest_get(&self) -> bool {
        self.method == "GET" && self.path.contains("/manifests/") && self.status == 200
    }

    /// A GET of a blob that was answered with bytes of it.
    pub fn is_blob_get(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/") && matches!(self.status, 200 | 206)
    }

    /// A GET of content: what costs the registry bandwidth.
    pub fn is_content_get(&self) -> bool {
        self.is_manifest_get() || self.is_blob_get()
    }

    /// A HEAD answered with `Content-Length` logs that length although no body is sent.
    pub fn body_bytes(&self) -> u64 {
        if self.method == "HEAD" { 0 } else { self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_registry_is_read() {
        let line = "127.0.0.1 - - [21/Nov/2026:12:14:21 +0000] \
                    \"GET /v2/library/app/blobs/sha256:3b?ns=docker.io HTTP/1.1\" 206 263 \"\" \"containerd/1.6\"";
        let access = Access::parse(line).unwrap();
        assert_eq!((access.status, access.bytes), (206, 263));
        assert_eq!(access.path, "/v2/library/app/blobs/sha256:3b?ns=docker.io");
        assert!(access.is_blob_get() && !access.is_manifest_get());
        assert_eq!(Access::parse("time=now level=error msg=\"no access\""), None);
    }
}
