//! containerd's filters: conditions on fields, joined by commas, all of which must hold.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};

use super::rows::{Kind, Snapshot};

/// Of a compiled expression, in bytes; filters come from whoever may call containerd's plugins, so from root.
const MAX_REGEX: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter {text:?} is not understood: {problem}")]
pub struct FilterError {
    text: String,
    problem: String,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

#[derive(Debug)]
struct Condition {
    field: Vec<String>,
    test: Test,
}

/// Filters of one call: a snapshot must match one of them.
#[derive(Debug)]
pub(super) struct Filters(Vec<Vec<Condition>>);

impl Filters {
    pub(super) fn parse(filters: &[String]) -> Result<Self, FilterError> {
        let parse = |text: &String| {
            let mut parser = Parser { rest: text };
            let wrong = |problem| FilterError { text: text.clone(), problem };
            parser.conditions().map_err(wrong)
        };
        Ok(Self(filters.iter().map(parse).collect::<Result<_, _>>()?))
    }

    pub(super) fn matches(&self, name: &str, snapshot: &Snapshot) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|one| one.holds(name, snapshot)))
    }
}

impl Condition {
    fn holds(&self, name: &str, snapshot: &Snapshot) -> bool {
        let value = field(&self.field, name, snapshot);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value == Some(wanted.as_str()),
            // As containerd has it: what is not there is not equal.
            Test::NotEqual(wanted) => value != Some(wanted.as_str()),
            Test::Matches(regex) => value.is_some_and(|value| regex.is_match(value)),
        }
    }
}

fn field<'a>(path: &[String], name: &'a str, snapshot: &'a Snapshot) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "name" => Some(name),
        "parent" => Some(&snapshot.parent),
        "kind" => match snapshot.kind() {
            Kind::Active => Some("active"),
            Kind::View => Some("view"),
            Kind::Committed => Some("committed"),
            Kind::Unknown => None,
        },
        "labels" => label(&snapshot.labels, &rest.join(".")),
        _ => None,
    }
}

fn label<'a>(labels: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    labels.get(name).map(String::as_str)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn conditions(&mut self) -> Result<Vec<Condition>, String> {
        let mut all = Vec::new();
        loop {
            all.push(self.condition()?);
            self.rest = self.rest.trim_start();
            if self.rest.is_empty() {
                return Ok(all);
            }
            self.rest = self.rest.strip_prefix(',').ok_or_else(|| format!("at {:?}", self.rest))?;
        }
    }

    fn condition(&mut self) -> Result<Condition, String> {
        let mut field = vec![self.name()?];
        while let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            field.push(self.name()?);
        }
        self.rest = self.rest.trim_start();
        let operators = ["==", "!=", "~="];
        let Some(operator) = operators.into_iter().find(|operator| self.rest.starts_with(operator)) else {
            return Ok(Condition { field, test: Test::Present });
        };
        self.rest = self.rest.strip_prefix(operator).unwrap_or_default();
        let value = self.value()?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => {
                let regex = RegexBuilder::new(&value).size_limit(MAX_REGEX).build();
                Test::Matches(regex.map_err(|error| error.to_string())?)
            }
        };
        Ok(Condition { field, test })
    }

    /// A part of a field's path.
    fn name(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-' || c == '/';
        self.take_while(is_part).ok_or_else(|| format!("a field is missing at {:?}", self.rest))
    }

    fn value(&mut self) -> Result<String, String> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('"') {
            return self.quoted();
        }
        let is_part = |c: char| !c.is_whitespace() && c != ',' && c != '"';
        Ok(self.take_while(is_part).unwrap_or_default())
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> Option<String> {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!taken.is_empty()).then(|| taken.to_owned())
    }

    /// As Go quotes (`%q`), but for the names of code points, which no name or label of a snapshot holds.
    fn quoted(&mut self) -> Result<String, String> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices();
        chars.next();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = self.rest.get(at + 1..).unwrap_or_default();
                    return Ok(out);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\' | '\''))) => out.push(c),
                    Some((_, 'n')) => out.push('\n'),
                    Some((_, 't')) => out.push('\t'),
                    Some((_, 'r')) => out.push('\r'),
                    _ => return Err("an escape is unknown".to_owned()),
                },
                c => out.push(c),
            }
        }
        Err("a quotation mark is missing".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let labels = [("containerd.io/snapshot.ref", "sha256:ab"), ("plain", "")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Snapshot {
            parent: "k8s.io/3/sha256:cd".into(),
            ..Snapshot::new(Kind::Committed, String::new(), labels)
        }
    }

    fn matches(filters: &[&str]) -> bool {
        let filters: Vec<_> = filters.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&filters).unwrap().matches("sha256:ab", &snapshot())
    }

    #[test]
    fn what_containerd_asks_after_a_layer_was_taken() {
        let asked = |layer: &str, parent: &str| {
            format!("labels.\"containerd.io/snapshot.ref\"=={layer},parent==\"{parent}\"")
        };
        assert!(matches(&[&asked("sha256:ab", "k8s.io/3/sha256:cd")]));
        assert!(!matches(&[&asked("sha256:ab", "")]));
        assert!(!matches(&[&asked("sha256:cd", "k8s.io/3/sha256:cd")]));
    }

    #[test]
    fn one_filter_must_match_with_all_of_its_conditions() {
        assert!(matches(&[]));
        assert!(matches(&["kind==active", "kind==committed , name==sha256:ab"]));
        assert!(!matches(&["kind==active", "kind==committed,name==other"]));
        assert!(matches(&["labels.plain", "labels.absent"]));
        assert!(!matches(&["labels.absent"]));
        assert!(matches(&["labels.absent!=x,name!=x"]));
        assert!(matches(&["name~=\"^sha256:[a-f]+$\""]));
        assert!(!matches(&["name~=^sha512"]));
        assert!(matches(&["parent==k8s.io/3/sha256:cd"]));
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["", "==x", "name==\"x", "name==x,", "name==x y", "name~=(", "labels.", "name==\"\\q\""] {
            assert!(Filters::parse(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
