//! What a token is good for: `repository:NAME:pull,push`.

use std::collections::{BTreeMap, BTreeSet};

/// Resources and what may be done to each. A scope of another form (`aws`) is a resource without actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    pub fn repository(name: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_string()).collect();
        Self(BTreeMap::from([(format!("repository:{name}"), actions)]))
    }

    /// The `scope` of a challenge: several are parted by spaces.
    pub fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for word in text.split_ascii_whitespace() {
            let (resource, actions) = match word.rsplit_once(':') {
                Some((resource, actions)) if resource.contains(':') => (resource, actions),
                _ => (word, ""),
            };
            let own = scopes.0.entry(resource.to_string()).or_default();
            own.extend(actions.split(',').filter(|action| !action.is_empty()).map(str::to_string));
        }
        scopes
    }

    pub fn add(&mut self, other: &Self) {
        for (resource, actions) in &other.0 {
            self.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
    }

    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    pub fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(resource, actions)| self.0.get(resource).is_some_and(|own| own.is_superset(actions)))
    }

    pub fn forget(&mut self, other: &Self) {
        self.0.retain(|resource, _| !other.0.contains_key(resource));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the repositories in it.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|resource| resource.strip_prefix("repository:"))
    }

    /// One text for each resource, those of `first` before the others: some token servers look at the first only.
    pub fn texts(&self, first: &Self) -> Vec<String> {
        let (mut front, back): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(resource, _)| first.0.contains_key(*resource));
        front.extend(back);
        let text = |(resource, actions): (&String, &BTreeSet<String>)| match actions.is_empty() {
            true => resource.clone(),
            false => {
                format!("{resource}:{}", actions.iter().map(String::as_str).collect::<Vec<_>>().join(","))
            }
        };
        front.into_iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_merged_and_compared_by_action() {
        let mut scopes =
            Scopes::parse("repository:z:pull repository:host:5000/a:push,pull aws registry:catalog:*");
        assert!(scopes.covers(&Scopes::repository("z", &["pull"])));
        assert!(scopes.covers(&Scopes::repository("host:5000/a", &["push"])));
        assert!(!scopes.covers(&Scopes::repository("z", &["pull", "push"])));
        assert!(!scopes.covers(&Scopes::repository("y", &["pull"])));
        scopes.add(&Scopes::repository("z", &["push"]));
        let first = Scopes::repository("z", &["pull"]);
        assert_eq!(
            scopes.texts(&first),
            ["repository:z:pull,push", "aws", "registry:catalog:*", "repository:host:5000/a:pull,push"]
        );
        scopes.forget(&first);
        assert!(!scopes.covers(&first));
        assert_eq!(scopes.repositories().collect::<Vec<_>>(), ["host:5000/a"]);
    }
}
