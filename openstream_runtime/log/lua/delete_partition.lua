-- KEYS stream, meta, lease. ARGV topic id.
-- Invariant: a topic that was created again under the same name keeps its stream when the old one is deleted late.
local topic = redis.call('HGET', KEYS[2], 'tid')
if topic and tonumber(topic) > tonumber(ARGV[1]) then return 0 end
return redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
