//! Cycles in a directed graph given as lists of successors.

/// The nodes of every cycle, grouped so that two nodes are together exactly if each can reach the
/// other. Nodes on no cycle are left out. `successors[n]` are the nodes that `n` points to.
///
/// Tarjan's algorithm with a stack of its own, so that a long chain can't exhaust the thread's.
pub(crate) fn cycles(successors: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut search = Search {
        successors,
        order: vec![None; successors.len()],
        low: vec![0; successors.len()],
        open: Vec::new(),
        is_open: vec![false; successors.len()],
        next: 0,
        found: Vec::new(),
    };
    for node in 0..successors.len() {
        if search.order[node].is_none() {
            search.visit(node);
        }
    }
    search.found
}

struct Search<'a> {
    successors: &'a [Vec<usize>],
    /// When a node was first seen.
    order: Vec<Option<usize>>,
    /// The earliest open node that is reachable from it.
    low: Vec<usize>,
    /// Nodes seen whose group isn't complete.
    open: Vec<usize>,
    is_open: Vec<bool>,
    next: usize,
    found: Vec<Vec<usize>>,
}

impl Search<'_> {
    fn visit(&mut self, root: usize) {
        let mut path = vec![(root, 0)];
        self.enter(root);
        while let Some((node, edge)) = path.last_mut() {
            let node = *node;
            if let Some(&to) = self.successors[node].get(*edge) {
                *edge += 1;
                match self.order[to] {
                    None => {
                        self.enter(to);
                        path.push((to, 0));
                    }
                    Some(seen) if self.is_open[to] => self.low[node] = self.low[node].min(seen),
                    Some(_) => {}
                }
            } else {
                path.pop();
                if let Some((parent, _)) = path.last() {
                    self.low[*parent] = self.low[*parent].min(self.low[node]);
                }
                self.leave(node);
            }
        }
    }

    fn enter(&mut self, node: usize) {
        self.order[node] = Some(self.next);
        self.low[node] = self.next;
        self.next += 1;
        self.open.push(node);
        self.is_open[node] = true;
    }

    /// Closes the group that `node` heads, if it heads one.
    fn leave(&mut self, node: usize) {
        if self.order[node] != Some(self.low[node]) {
            return;
        }
        let mut group = Vec::new();
        while let Some(member) = self.open.pop() {
            self.is_open[member] = false;
            group.push(member);
            if member == node {
                break;
            }
        }
        if group.len() > 1 || self.successors[node].contains(&node) {
            group.sort_unstable();
            self.found.push(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cycles;

    #[test]
    fn a_tree_has_none() {
        assert!(cycles(&[vec![1, 2], vec![2], vec![]]).is_empty());
    }

    #[test]
    fn loops_are_grouped() {
        let found = cycles(&[vec![1], vec![2], vec![0, 3], vec![3], vec![5], vec![4, 0]]);
        assert_eq!(found, vec![vec![3], vec![0, 1, 2], vec![4, 5]]);
    }

    #[test]
    fn a_chain_of_a_million_is_fine() {
        let chain: Vec<Vec<usize>> = (1..=1_000_000)
            .map(|next| if next < 1_000_000 { vec![next] } else { vec![] })
            .collect();
        assert!(cycles(&chain).is_empty());
    }
}
