-- KEYS stream, meta, lease, what names of side streams begin with, what producers and events were remembered. ARGV topic id.
-- Invariant: a topic that was created again under the same name keeps its stream when the old one is deleted late.
local topic = redis.call('HGET', KEYS[2], 'tid')
if topic and tonumber(topic) > tonumber(ARGV[1]) then return 0 end
forget_sides(KEYS[1], KEYS[2], KEYS[4])
return redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3], unpack(KEYS, 5))
