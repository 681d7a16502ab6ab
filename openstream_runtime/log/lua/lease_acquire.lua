-- KEYS lease. ARGV token, ms. Answers 1 when the token holds it now, also when it did before: asking twice is safe.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
-- A script that has written may go on writing when memory is full: without an owner nothing would ever be trimmed.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
