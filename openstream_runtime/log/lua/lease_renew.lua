-- KEYS lease. ARGV token, ms. Never takes a lease that ended: somebody may have held it in between.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
