-- Provenance: what an allocation rests on is asked of the windows of its span, and whether another allocation before it
-- has moved their idle energy.

create index posting_node_ended_at on posting (node, ended_at);
create index posting_allocation on posting (node, id) where kind = 'allocation';
