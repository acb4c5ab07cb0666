//! [`Query`]: the part of a request after `?`, and the selectors in it.

use std::collections::BTreeMap;

use axum::extract::rejection::QueryRejection;

use super::failure::Failure;

/// What was asked for by `?name=value&…`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Query(BTreeMap<String, String>);

/// A query as axum reads it.
pub(super) type RawQuery = Result<axum::extract::Query<BTreeMap<String, String>>, QueryRejection>;

impl Query {
    /// The query, if it could be read.
    pub(super) fn of(raw: RawQuery) -> Result<Self, Failure> {
        match raw {
            Ok(axum::extract::Query(values)) => Ok(Self(values)),
            Err(error) => Err(Failure::bad_request(error.body_text())),
        }
    }

    /// A text that was given and is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// Whether it was given at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A flag; false if it was not given.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => {
                Err(Failure::bad_request(format!("{name} is `{other}`: it must be true or false")))
            }
        }
    }

    /// A number, if it was given.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let refused =
            |_| Failure::bad_request(format!("{name} is `{text}`: it must be a number from 0"));
        text.parse().map(Some).map_err(refused)
    }
}

/// The same where a name may be there several times, as the words of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Words(Vec<(String, String)>);

impl Words {
    /// What stands after `?`.
    pub(super) fn of(text: &str) -> Result<Self, Failure> {
        let uri: Result<axum::http::Uri, _> = format!("/?{text}").parse();
        let uri = uri.map_err(|error| Failure::bad_request(error.to_string()))?;
        match axum::extract::Query::try_from_uri(&uri) {
            Ok(axum::extract::Query(words)) => Ok(Self(words)),
            Err(error) => Err(Failure::bad_request(error.body_text())),
        }
    }

    /// Every value of a name, in order.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let values = self.0.iter().filter(move |(found, _)| found == name);
        values.map(|(_, value)| value.as_str())
    }

    /// The first value of a name that is not empty.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).find(|value| !value.is_empty())
    }

    /// A flag; false if it was not given.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        match self.one(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(other) => {
                Err(Failure::bad_request(format!("{name} is `{other}`: it must be true or false")))
            }
        }
    }

    /// A number below 65536, if it was given.
    pub(super) fn number(&self, name: &str) -> Result<Option<u16>, Failure> {
        let Some(text) = self.one(name) else { return Ok(None) };
        let refused =
            |_| Failure::bad_request(format!("{name} is `{text}`: it must be 0 to 65535"));
        text.parse().map(Some).map_err(refused)
    }
}

/// Which objects are meant. Empty fields mean all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Selector {
    /// The namespace in the path.
    pub(super) namespace: Option<String>,
    fields: Vec<Requirement>,
    labels: Vec<Requirement>,
}

/// `key=value` or `key!=value`; without a value that the key is there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    value: Option<String>,
    equal: bool,
}

impl Selector {
    /// The selector of a request for a list. `fields` are the names that a field selector may have.
    pub(super) fn of(
        namespace: Option<String>,
        query: &Query,
        fields: &[&str],
    ) -> Result<Self, Failure> {
        let by_fields = requirements(query.text("fieldSelector").unwrap_or_default())?;
        for Requirement { key, value, .. } in &by_fields {
            if value.is_none() || !fields.contains(&key.as_str()) {
                let known = fields.join(", ");
                let text = format!("field selector on {key:?} is not supported: {known} are");
                return Err(Failure::bad_request(text));
            }
        }
        let labels = requirements(query.text("labelSelector").unwrap_or_default())?;
        Ok(Self { namespace, fields: by_fields, labels })
    }

    /// Whether an object is meant. Its fields are asked for by their names.
    pub(super) fn matches(
        &self,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        field: impl Fn(&str) -> String,
    ) -> bool {
        let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.fields.iter().all(|wanted| wanted.holds(Some(&field(&wanted.key))))
            && self.labels.iter().all(|wanted| wanted.holds(label(&wanted.key)))
    }
}

impl Requirement {
    fn holds(&self, found: Option<&str>) -> bool {
        match &self.value {
            None => found.is_some() == self.equal,
            Some(value) => (found == Some(value)) == self.equal,
        }
    }
}

fn requirements(text: &str) -> Result<Vec<Requirement>, Failure> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(requirement).collect()
}

fn requirement(text: &str) -> Result<Requirement, Failure> {
    if text.contains(['(', ')', ' ']) {
        let refused = "selectors with sets are not supported: use key=value and key!=value";
        return Err(Failure::bad_request(format!("`{text}`: {refused}")));
    }
    let split = text
        .split_once("!=")
        .map(|(key, value)| (key, value, false))
        .or_else(|| text.split_once("==").map(|(key, value)| (key, value, true)))
        .or_else(|| text.split_once('=').map(|(key, value)| (key, value, true)));
    Ok(match (split, text.strip_prefix('!')) {
        (Some((key, value, equal)), _) => {
            Requirement { key: key.to_owned(), value: Some(value.to_owned()), equal }
        }
        (None, Some(key)) => Requirement { key: key.to_owned(), value: None, equal: false },
        (None, None) => Requirement { key: text.to_owned(), value: None, equal: true },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(query: &[(&str, &str)]) -> Result<Selector, Failure> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let query = Query(query.iter().map(own).collect());
        Selector::of(None, &query, &["metadata.name"])
    }

    #[test]
    fn selectors_choose_by_labels_and_fields() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let check = |query: &[(&str, &str)], expected: bool| {
            let selector = select(query).unwrap();
            let found = selector.matches("default", Some(&labels), |_| "web-1".to_owned());
            assert_eq!(found, expected, "{query:?}");
        };
        check(&[], true);
        check(&[("labelSelector", "app=web")], true);
        check(&[("labelSelector", "app==web,tier!=back")], true);
        check(&[("labelSelector", "app!=web")], false);
        check(&[("labelSelector", "app,!tier")], true);
        check(&[("labelSelector", "tier")], false);
        check(&[("fieldSelector", "metadata.name=web-1")], true);
        check(&[("fieldSelector", "metadata.name=web-2")], false);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        select(&[("fieldSelector", "spec.nodeName=x")]).unwrap_err();
        select(&[("labelSelector", "app in (a, b)")]).unwrap_err();
        let query = Query(BTreeMap::from([("watch".to_owned(), "perhaps".to_owned())]));
        query.flag("watch").unwrap_err();
    }
}
