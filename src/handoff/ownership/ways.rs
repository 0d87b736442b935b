//! Through which hosts the requests about a table came: whether it should move.

use std::time::Duration;

use super::transaction::HostId;

/// Counts of the requests about one table, since its owner began to count.
#[derive(Debug, Default)]
pub struct Ways {
    since: Duration,
    all: u32,
    /// Of those that other hosts passed on.
    by_host: Vec<(HostId, u32)>,
}

impl Ways {
    /// Begins to count.
    pub fn since(now: Duration) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// A request came, by itself or through another host.
    #[inline]
    pub fn count(&mut self, through: Option<HostId>) {
        self.all = self.all.saturating_add(1);
        let Some(host) = through else { return };
        match self.by_host.iter_mut().find(|at| at.0 == host) {
            Some((_, count)) => *count = count.saturating_add(1),
            // One for each host of the cell.
            None => self.by_host.push((host, 1)),
        }
    }

    /// After `window`: the host through which at least this part of at least `least` requests
    /// came. Then it counts anew.
    pub fn prevailing(
        &mut self,
        now: Duration,
        window: Duration,
        least: u32,
        part: f64,
    ) -> Option<HostId> {
        if now.saturating_sub(self.since) < window {
            return None;
        }
        let Self { all, by_host, .. } = std::mem::replace(self, Self::since(now));
        let (host, most) = by_host.into_iter().max_by_key(|&(_, count)| count)?;
        (all >= least && f64::from(most) >= part * f64::from(all)).then_some(host)
    }

    /// The host through which the most came.
    pub fn most(&self) -> Option<HostId> {
        self.by_host.iter().max_by_key(|&&(_, count)| count).map(|&(host, _)| host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn after(ways: &mut Ways, at: u64) -> Option<HostId> {
        ways.prevailing(Duration::from_secs(at), WINDOW, 20, 0.9)
    }

    #[test]
    fn nine_tenths_through_one_other_host() {
        let (a, b) = (HostId(1), HostId(2));
        for (own, through_a, through_b, expected) in [
            (2, 18, 0, Some(a)),
            (3, 17, 0, None),
            (0, 18, 0, None),
            (0, 3, 97, Some(b)),
            (0, 50, 50, None),
            (0, 0, 0, None),
        ] {
            let mut ways = Ways::since(Duration::from_secs(100));
            (0..own).for_each(|_| ways.count(None));
            (0..through_a).for_each(|_| ways.count(Some(a)));
            (0..through_b).for_each(|_| ways.count(Some(b)));
            assert_eq!(after(&mut ways, 109), None);
            assert_eq!(after(&mut ways, 110), expected, "{own} {through_a} {through_b}");
            // What was counted counts no more.
            assert_eq!(after(&mut ways, 120), None);
        }
    }
}
