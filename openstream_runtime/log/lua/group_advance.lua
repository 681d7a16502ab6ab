-- KEYS stream, meta, side stream. ARGV group, consumer, after, upto, ids of the entries between them. A cold group moves
-- on: the entries are handed to the consumer, their content being in PostgreSQL; at `tf` it goes back to the stream.
-- Answers 1 when it moved, 0 when it is not where the caller thought it was: then nothing was done.
local stream, meta, side, group, upto = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[4]
local at = 'c:' .. group
if redis.call('HGET', meta, at) ~= ARGV[3] then return 0 end
if redis.pcall('XPENDING', stream, group).err then return 0 end -- the group is gone
redis.call('HDEL', meta, '') -- a script that has written may go on writing when memory is full: readers go on reading
if redis.call('EXISTS', side) == 0 then redis.call('XGROUP', 'CREATE', side, group, '0-0', 'MKSTREAM') end
redis.call('XGROUP', 'CREATECONSUMER', side, group, ARGV[2])
for i = 5, #ARGV do redis.call('XADD', side, ARGV[i], 's', '') end
for i = 5, #ARGV, 1000 do
  local command = { 'XCLAIM', side, group, ARGV[2], 0, unpack(ARGV, i, math.min(#ARGV, i + 999)) }
  for _, option in ipairs({ 'RETRYCOUNT', 1, 'FORCE', 'JUSTID' }) do command[#command + 1] = option end
  redis.call(unpack(command))
end
if before(upto, redis.call('HGET', meta, 'tf') or '0-0') then
  redis.call('HSET', meta, at, upto)
  local count = 'cn:' .. group
  local left = redis.call('HGET', meta, count)
  if left then redis.call('HSET', meta, count, math.max(0, tonumber(left) - (#ARGV - 4))) end
else
  redis.call('HDEL', meta, at, 'cn:' .. group)
  redis.call('XGROUP', 'SETID', stream, group, upto)
  if redis.call('XLEN', side) == 0 then redis.call('UNLINK', side) end
end
return 1
