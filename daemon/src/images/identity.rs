//! As whom an origin may be asked on behalf of a caller.

use http::HeaderValue;
use shoal_origin::Identity;
use shoal_registry_proxy::Caller;

/// The two identities to try, in this order. Anonymous comes first: that it works is a fact about the
/// repository that serves everybody, and it spares the caller's credentials the journey.
pub(super) fn candidates(caller: &Caller) -> [Identity; 2] {
    let own = caller.authorization.as_ref().and_then(|value| {
        let mut header = HeaderValue::from_str(value.expose()).ok()?;
        header.set_sensitive(true);
        Some(Identity::from_authorization(Some(&header)))
    });
    match own {
        Some(own @ Identity::Caller(_)) => [Identity::Anonymous, own],
        // Who may talk to this mirror without credentials may use the node's: its operator configured them.
        _ => [Identity::Anonymous, Identity::Node],
    }
}

#[cfg(test)]
mod tests {
    use shoal_registry_proxy::Authorization;

    use super::*;

    fn kinds(authorization: Option<&str>) -> Vec<&'static str> {
        let caller = Caller { authorization: authorization.map(Authorization::new) };
        candidates(&caller)
            .iter()
            .map(|identity| match identity {
                Identity::Anonymous => "anonymous",
                Identity::Node => "node",
                Identity::Caller(_) => "caller",
            })
            .collect()
    }

    #[test]
    fn a_caller_with_credentials_never_gets_the_nodes() {
        assert_eq!(kinds(Some("Bearer abc")), ["anonymous", "caller"]);
        assert_eq!(kinds(Some("Basic Og==")), ["anonymous", "node"]);
        assert_eq!(kinds(None), ["anonymous", "node"]);
    }
}
