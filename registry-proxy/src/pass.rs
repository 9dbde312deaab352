//! Tag lists and referrers: asked of the upstream each time.

use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderValue};

use crate::body::ReplyBody;
use crate::headers::{self, FILTERS_APPLIED, NAMESPACE, SHOAL_SOURCE};
use crate::refusal::Failure;
use crate::service::Asked;
use crate::{Backend, Pass, Source};

pub(crate) async fn answer<B: Backend>(
    backend: &B,
    asked: &Asked<'_>,
    pass: &Pass,
) -> Result<Response<ReplyBody>, Failure> {
    let passed = backend.pass(pass, asked.caller).await?;
    let mut response = Response::new(ReplyBody::empty());
    let to: &mut HeaderMap = response.headers_mut();
    headers::set(to, NAMESPACE, pass.registry.as_str());
    headers::set(to, CONTENT_TYPE, &passed.content_type);
    to.insert(CONTENT_LENGTH, HeaderValue::from(passed.body.len()));
    to.insert(SHOAL_SOURCE, HeaderValue::from_static(Source::Origin.as_str()));
    if let Some(filters) = &passed.filters_applied {
        headers::set(to, FILTERS_APPLIED, filters);
    }
    if let Some(link) = passed.link.as_deref().and_then(|link| next_page(link, asked)) {
        headers::set(to, LINK, &link);
    }
    if !asked.head {
        *response.body_mut() = ReplyBody::manifest(passed.body, Source::Origin);
    }
    Ok(response)
}

/// The upstream's next page as a page of this mirror: path and `ns` are those that the client sent, the
/// other parameters those that the upstream wants to see. A link to anywhere else cannot come out of it.
fn next_page(link: &str, asked: &Asked<'_>) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = |p: &str| p.replace(['"', ' '], "").eq_ignore_ascii_case("rel=next");
    if !parameters.split(';').any(is_next) {
        return None;
    }
    let (_, query) = target.split_once('?')?;
    let mut page = form_urlencoded::Serializer::new(String::new());
    let is_ns = |(key, _): &(std::borrow::Cow<'_, str>, _)| key == "ns";
    page.extend_pairs(form_urlencoded::parse(query.as_bytes()).filter(|pair| !is_ns(pair)));
    page.extend_pairs(form_urlencoded::parse(asked.query.as_bytes()).filter(is_ns));
    Some(format!("<{}?{}>; rel=\"next\"", asked.path, page.finish()))
}
