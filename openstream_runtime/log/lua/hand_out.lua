-- What reading and claiming share: handing out entries in pages, until enough were found or enough bytes.
-- KEYS stream, meta and side stream of each partition. A side stream holds stubs: entries whose content PostgreSQL has.
-- A page is copied into Lua, so pages are small at first and then as large as what was seen allows; the bound on
-- bytes is passed by one page at most.
-- Of ARGV: group, consumer, count, bytes, how often an entry may be handed out or 0.
local FIRST_PAGE, LARGEST_PAGE = 8, 64

local group, consumer = ARGV[1], ARGV[2]
local wanted, room, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local seen, seen_bytes = 0, 0
-- pages: {index of the partition, entries, delivery counts or 1, 1 for stubs}; vanished: pending entries that somebody
-- trimmed away
-- due: in how many ms the next delayed entry is, -1 when there is none
local pages, missing, vanished, due = {}, {}, 0, -1

local function page_size()
  if seen == 0 then return math.min(wanted, FIRST_PAGE) end
  local fitting = math.floor(room / (seen_bytes / seen))
  return math.max(1, math.min(wanted, fitting, LARGEST_PAGE))
end

local function full()
  return wanted <= 0 or room <= 0
end

-- What waited for its time and has had it waits for whoever reads next. In small steps: the next read does the rest.
local function end_delays(stream, side)
  local queue = side .. ':due'
  local first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  if not first[1] then return end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if tonumber(first[2]) <= now then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', queue, '-inf', now, 'LIMIT', 0, 100)) do
      for _, key in ipairs({ stream, side }) do
        if pending_of(key, group, id, id, 1, DELAYED)[1] then
          redis.call('XCLAIM', key, group, RELEASED, 0, id, 'JUSTID')
        end
      end
      redis.call('ZREM', queue, id)
    end
    first = redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES')
  end
  if first[1] then
    local wait = math.max(0, first[2] - now)
    if due < 0 or wait < due then due = wait end
  end
end

-- Partitions in the order to serve them: index, stream, meta, side stream or nil when there is none, and its name.
local function partitions()
  local index = 0
  return function()
    index = index + 1
    local stream, side = KEYS[3 * index - 2], KEYS[3 * index]
    if stream then
      return index, stream, KEYS[3 * index - 1], redis.call('EXISTS', side) == 1 and side or nil, side
    end
  end
end

local function hand_out(index, entries, counts, are_stubs)
  if #entries == 0 then return end
  local bytes = 0
  for _, entry in ipairs(entries) do
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    bytes = bytes + 64
  end
  seen, seen_bytes = seen + #entries, seen_bytes + bytes
  wanted, room = wanted - #entries, room - bytes
  pages[#pages + 1] = { index, entries, counts, are_stubs and 1 or 0 }
end

-- Take over pending entries: [id, holder, idle, times handed out] each, as XPENDING gives them.
local function take_over(index, stream, pending, min_idle, are_stubs)
  local command, times = { 'XCLAIM', stream, group, consumer, min_idle }, {}
  for _, one in ipairs(pending) do
    if most > 0 and one[4] >= most then
      condemn(stream, KEYS[3 * index], group, one, 'timed_out')
    else
      command[#command + 1] = one[1]
      times[one[1]] = one[4]
    end
  end
  if #command == 5 then return end
  local claimed, entries, counts = redis.call(unpack(command)), {}, {}
  for _, entry in ipairs(claimed) do
    if entry and entry[2] then
      entries[#entries + 1] = entry
      counts[#counts + 1] = times[entry[1]] + 1
      times[entry[1]] = nil
    end
  end
  -- XCLAIM forgets entries that are no longer in the stream; make sure, for servers that do not.
  for id in pairs(times) do
    redis.call('XACK', stream, group, id)
    vanished = vanished + 1
  end
  hand_out(index, entries, counts, are_stubs)
end

-- Entries that wait for whoever reads next. False when there is no such group.
local function take_released(index, stream, are_stubs)
  while not full() do
    local size = page_size()
    local pending = redis.pcall('XPENDING', stream, group, '-', '+', size, RELEASED)
    if pending.err then
      if string.sub(pending.err, 1, 7) == 'NOGROUP' then return false end
      error(pending)
    end
    if #pending > 0 then take_over(index, stream, pending, 0, are_stubs) end
    if #pending < size then return true end
  end
  return true
end
