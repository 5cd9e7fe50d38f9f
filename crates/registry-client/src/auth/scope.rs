//! Scopes of tokens: `repository:NAME:pull,push` (distribution's token specification).

use std::collections::{BTreeMap, BTreeSet};

/// Resources and the actions allowed on each. A scope of another form (`aws`) is a resource without actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// The scope of one repository: `repository:NAME:ACTIONS`.
    pub fn repository(name: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_string()).collect();
        Self(BTreeMap::from([(format!("repository:{name}"), actions)]))
    }

    /// Parses the `scope` of a challenge; several scopes are separated by spaces.
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

    /// Adds the actions of other scopes.
    pub fn add(&mut self, other: &Self) {
        for (resource, actions) in &other.0 {
            self.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
    }

    /// Returns the union of both.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    /// Returns whether all actions of `other` are included.
    pub fn covers(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|(resource, actions)| self.0.get(resource).is_some_and(|own| own.is_superset(actions)))
    }

    /// Removes the resources of `other`, with all their actions.
    pub fn remove(&mut self, other: &Self) {
        self.0.retain(|resource, _| !other.0.contains_key(resource));
    }

    /// Returns whether there is no resource.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names of the repositories.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|resource| resource.strip_prefix("repository:"))
    }

    /// Returns one scope per resource, those of `first` before the others: some token servers read the first only.
    pub fn to_strings(&self, first: &Self) -> Vec<String> {
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
            scopes.to_strings(&first),
            ["repository:z:pull,push", "aws", "registry:catalog:*", "repository:host:5000/a:pull,push"]
        );
        scopes.remove(&first);
        assert!(!scopes.covers(&first));
        assert_eq!(scopes.repositories().collect::<Vec<_>>(), ["host:5000/a"]);
    }
}
