-- KEYS marks. ARGV the mark that lets nothing pass, milliseconds to keep it: an owner that slept may still append.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'end', ARGV[1])
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
