//! What somebody may have meant who has typed a name that is not there.

/// The names that are most like `wanted`, the closest first, each once, and how many are left out.
pub fn closest(wanted: &str, names: impl IntoIterator<Item = String>, most: usize) -> (Vec<String>, usize) {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort_by_cached_key(|name| (distance(wanted, name), name.clone()));
    names.dedup();
    let left_out = names.len().saturating_sub(most);
    names.truncate(most);
    (names, left_out)
}

/// Twice the number of letters to change, add or leave out; if one name holds the other, half of that.
fn distance(wanted: &str, name: &str) -> usize {
    /// Longer ones are not told apart behind that.
    const MOST_LETTERS: usize = 64;
    let letters = |text: &str| text.to_lowercase().chars().take(MOST_LETTERS).collect::<Vec<char>>();
    let (wanted, name) = (letters(wanted), letters(name));
    let holds =
        |one: &[char], other: &[char]| !other.is_empty() && one.windows(other.len()).any(|window| window == other);
    if holds(&name, &wanted) || holds(&wanted, &name) {
        return name.len().abs_diff(wanted.len());
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (index, letter) in wanted.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in name.iter().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    2 * row[name.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_alike_comes_first_and_the_rest_is_counted() {
        let names = ["celery", "gunicorn", "uwsgi", "python3", "gunicorn", "gunicorn-worker"].map(str::to_owned);
        assert_eq!(closest("gunicron", names.clone(), 1), (vec!["gunicorn".to_owned()], 4));
        assert_eq!(
            closest("gunicorn-", names.clone(), 2).0,
            ["gunicorn", "gunicorn-worker"]
        );
        assert_eq!(closest("Python", names, 1).0, ["python3"]);
        assert_eq!(closest("x", [], 3), (vec![], 0));
    }

    proptest! {
        #[test]
        fn a_distance_is_nothing_for_equals_only(one in ".{0,80}", other in ".{0,80}") {
            prop_assert_eq!(distance(&one, &one), 0);
            let _ = (distance(&one, &other), distance("", &other));
        }
    }
}
