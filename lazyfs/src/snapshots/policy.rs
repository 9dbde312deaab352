//! Which images are shown without being fetched first.

use std::str::FromStr;

use shoal_proto::ImageName;

/// Images by name: `docker.io/library/nginx`, or all that begin so: `quay.io/team/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    start: String,
    all: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no images: write registry/repository, and * only at the end")]
pub struct PatternError(String);

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (start, all) = text.strip_suffix('*').map_or((text, false), |start| (start, true));
        let wrong =
            start.contains(['*', '@']) || start.contains(char::is_whitespace) || (start.is_empty() && !all);
        if wrong { Err(PatternError(text.to_owned())) } else { Ok(Self { start: start.to_owned(), all }) }
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        if self.all { name.starts_with(&self.start) } else { name == self.start }
    }
}

/// When what nobody has read is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    Never,
    /// Once a container uses it, when nobody waits for anything else.
    #[default]
    WhenQuiet,
    /// At once.
    Eager,
}

#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// An image whose layers are smaller together, compressed, is fetched whole sooner than it is shown.
    pub smallest: u64,
    /// If there are any, no other images are shown.
    pub allow: Vec<Pattern>,
    /// Images that are not shown.
    pub deny: Vec<Pattern>,
    /// Images that are filled at once, whatever `fill` says.
    pub eager: Vec<Pattern>,
    pub fill: Fill,
    /// How fast, in compressed bytes a second, all images together; 0 is as fast as they come.
    pub fill_rate: u64,
}

impl Policy {
    pub(super) fn allows(&self, image: &ImageName) -> bool {
        let name = name(image);
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(&name));
        (self.allow.is_empty() || any(&self.allow)) && !any(&self.deny)
    }

    pub(super) fn fill(&self, image: &ImageName) -> Fill {
        let name = name(image);
        if self.eager.iter().any(|pattern| pattern.fits(&name)) { Fill::Eager } else { self.fill }
    }
}

fn name(ImageName { registry, repository, .. }: &ImageName) -> String {
    format!("{registry}/{repository}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn images_are_allowed_and_denied_by_name() {
        let nginx: ImageName = "nginx:1".parse().unwrap();
        let app: ImageName = "quay.io/team/app:v2".parse().unwrap();
        let policy = |allow: &[&str], deny: &[&str]| Policy {
            allow: patterns(allow),
            deny: patterns(deny),
            ..Policy::default()
        };
        for (allow, deny, nginx_too, app_too) in [
            (&[][..], &[][..], true, true),
            (&["quay.io/team/*"], &[], false, true),
            (&["docker.io/library/nginx"], &[], true, false),
            (&["docker.io/library/ngin"], &[], false, false),
            (&["*"], &["quay.io/team/app"], true, false),
            (&[], &["*"], false, false),
        ] {
            let policy = policy(allow, deny);
            assert_eq!(
                (policy.allows(&nginx), policy.allows(&app)),
                (nginx_too, app_too),
                "{allow:?} {deny:?}"
            );
        }
    }

    #[test]
    fn eager_images_are_filled_at_once() {
        let policy = Policy { eager: patterns(&["quay.io/*"]), fill: Fill::Never, ..Policy::default() };
        assert_eq!(policy.fill(&"quay.io/team/app".parse().unwrap()), Fill::Eager);
        assert_eq!(policy.fill(&"nginx".parse().unwrap()), Fill::Never);
    }

    #[test]
    fn what_names_no_images_is_refused() {
        for text in ["", "*/nginx", "a b", "docker.io/library/nginx@sha256:ab"] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }
}
