-- KEYS stream, meta, side stream. ARGV group. Answers 1 when there was one.
redis.call('UNLINK', KEYS[3], KEYS[3] .. ':due', KEYS[3] .. ':dead')
redis.call('HDEL', KEYS[2], 'c:' .. ARGV[1], 'cn:' .. ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1])
