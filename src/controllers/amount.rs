//! Numbers that are said absolutely or in percent of another (`maxSurge: 25%`), and other small sums of
//! rollouts.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Which way a share of pods is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    Up,
    Down,
}

/// The number meant, of `total`; what cannot be read is zero (the API does not let it in).
#[must_use]
pub fn of(amount: Option<&IntOrString>, total: i32, round: Round) -> i32 {
    match amount {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|it| it.parse::<i64>().ok()) else {
                return 0;
            };
            let hundredfold = percent.saturating_mul(i64::from(total));
            let share = match round {
                Round::Up => hundredfold.saturating_add(99).div_euclid(100),
                Round::Down => hundredfold.div_euclid(100),
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// A count as statuses carry it.
#[must_use]
pub fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// Statuses leave out a zero.
#[must_use]
pub fn unless_zero(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_of_the_whole_and_rounded_as_asked() {
        let quarter = IntOrString::String("25%".into());
        assert_eq!(of(Some(&quarter), 10, Round::Up), 3);
        assert_eq!(of(Some(&quarter), 10, Round::Down), 2);
        assert_eq!(of(Some(&IntOrString::Int(7)), 10, Round::Down), 7);
        assert_eq!(of(None, 10, Round::Up), 0);
        assert_eq!(of(Some(&IntOrString::String("many".into())), 10, Round::Up), 0);
    }
}
