-- KEYS meta. ARGV group, after, upto, how many entries stand between them. Answers 1 when that is still what is cold.
local at = redis.call('HMGET', KEYS[1], 'c:' .. ARGV[1], 'tf')
if at[1] ~= ARGV[2] or at[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'cn:' .. ARGV[1], ARGV[4])
return 1
